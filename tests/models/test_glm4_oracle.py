"""Live against transformers' own networks over random shapes: GlmForCausalLM and Glm4ForCausalLM, both ways."""

from __future__ import annotations

import random

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm import AutoModel
from mindformers_glm.checkpoint.convert.plan import plan_conversion
from mindformers_glm.checkpoint.convert.run import run_plan
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.source import read_weights

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("pynative")]


def official(seed, folder):
    """A network of random shape and weights, saved as transformers saves it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    chance = random.Random(seed)
    kind = chance.choice(["glm", "glm4"])
    heads, groups, width = chance.choice([(4, 1), (4, 2), (8, 8), (6, 3)]) + (chance.choice([8, 16]),)
    values = {
        "vocab_size": chance.randrange(90, 200),
        "hidden_size": chance.choice([32, 48]),
        "intermediate_size": chance.choice([40, 72]),
        "num_hidden_layers": chance.randrange(1, 4),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": width,
        "attention_bias": chance.random() < 0.5,
        "tie_word_embeddings": chance.random() < 0.5,
        "rms_norm_eps": chance.choice([1e-5, 1.5625e-7]),
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": [1, 2],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": chance.choice([1e4, 5e6]),
            "partial_rotary_factor": chance.choice([0.5, 1.0]),
        },
    }
    torch.manual_seed(seed)
    config = (transformers.GlmConfig if kind == "glm" else transformers.Glm4Config)(**values)
    model = (transformers.GlmForCausalLM if kind == "glm" else transformers.Glm4ForCausalLM)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3) if weight.ndim > 1 else weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return torch, transformers, model


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed, tmp_path):
    torch, transformers, model = official(seed, tmp_path / "hf")
    ids = np.random.default_rng(seed).integers(3, model.config.vocab_size, (2, 17))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    ours = AutoModel.from_pretrained(tmp_path / "hf", compute_dtype="float32", param_init_type="float32")
    got = ours(Tensor(ids, ms.int32)).asnumpy()
    assert np.abs(got - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    config = read_config(tmp_path / "hf/config.json")[0]
    run_plan(plan_conversion(read_weights(tmp_path / "hf"), tmp_path / "back", "transformers", config=config))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(torch.tensor(ids)).logits, model(torch.tensor(ids)).logits)
