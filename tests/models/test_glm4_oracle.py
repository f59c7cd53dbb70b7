"""Live against transformers' own networks over random shapes: GlmForCausalLM and Glm4ForCausalLM, both ways."""

from __future__ import annotations

import json
import random

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients

from mindformers_glm import AutoModel
from mindformers_glm.checkpoint.convert.plan import plan_conversion
from mindformers_glm.checkpoint.convert.run import run_plan
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.names import NAMINGS, meaning, targets
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
        "max_position_embeddings": 64 if chance.random() < 0.7 else 16,
        "pad_token_id": 0,
        "eos_token_id": [1, 2],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": chance.choice([1e4, 5e6]),
            "partial_rotary_factor": chance.choice([0.5, 1.0]),
        },
    }
    if values["max_position_embeddings"] == 16:  # shorter than what is asked: stretched by YaRN
        values["rope_parameters"] |= {"rope_type": "yarn", "factor": chance.choice([4.0, 8.0])}
        values["rope_parameters"] |= {"original_max_position_embeddings": 16}
    torch.manual_seed(seed)
    config = (transformers.GlmConfig if kind == "glm" else transformers.Glm4Config)(**values)
    model = (transformers.GlmForCausalLM if kind == "glm" else transformers.Glm4ForCausalLM)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3) if weight.ndim > 1 else weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder, max_shard_size=chance.choice(["20KB", "1GB"]))
    if chance.random() < 0.4:  # as transformers 4 wrote it
        path = folder / "config.json"
        given = json.loads(path.read_text())
        rope = given.pop("rope_parameters")
        given |= {name: rope.pop(name) for name in ("rope_theta", "partial_rotary_factor")}
        given |= {"rope_scaling": {"type": rope.pop("rope_type"), **rope}} if rope["rope_type"] == "yarn" else {}
        path.write_text(json.dumps({**given, "torch_dtype": given.pop("dtype")}))
    return torch, transformers, model


@pytest.mark.parametrize("seed", range(16))
def test_random_shapes(seed, tmp_path):
    torch, transformers, model = official(seed, tmp_path / "hf")
    ids = np.random.default_rng(seed).integers(3, model.config.vocab_size, (2, 17))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    length = {"seq_length": 64, "compute_dtype": "float32", "param_init_type": "float32"}
    ours = AutoModel.from_pretrained(tmp_path / "hf", **length)
    got = ours(Tensor(ids, ms.int32)).asnumpy()
    assert np.abs(got - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    how = {"max_new_tokens": 12, "do_sample": False}
    greedy = model.generate(torch.tensor(ids), eos_token_id=None, **how).tolist()
    for rows in (ids, ids[:1]):
        assert [row.tolist() for row in ours.generate(rows, eos_token_id=[], **how)] == greedy[: len(rows)]
    labels = np.where(np.random.default_rng(seed).random(ids.shape) < 0.3, -100, ids)
    lost = model(torch.tensor(ids), labels=torch.tensor(labels)).loss
    lost.backward()
    shifted = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], 1)
    loss, gradients = loss_and_gradients(ours.set_train(True), ids, shifted)
    assert loss == pytest.approx(float(lost), rel=1e-5)
    slopes = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    compared = set()
    for name, slope in slopes.items():
        told = meaning(name)
        part = targets(told.ours, NAMINGS["native"], ours.config)[told.part]
        found = gradients[told.ours][part.start : part.stop]
        assert np.abs(found - slope).max() < 1e-4 * max(1.0, np.abs(slope).max()), name
        compared.add(told.ours)
    assert compared == set(gradients)
    config = read_config(tmp_path / "hf/config.json")[0]
    run_plan(plan_conversion(read_weights(tmp_path / "hf"), tmp_path / "back", "transformers", config=config))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(torch.tensor(ids)).logits, model(torch.tensor(ids)).logits)
