"""Forms of the network that the goldens do not have, against one full forward: adapters, norms, heads, float16."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm.generation import GenerationConfig, MindSporeEngine, generate
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration

LENGTH = 24
SHAPE = {
    "num_layers": 2,
    "padded_vocab_size": 101,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "kv_channels": 8,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "seq_length": LENGTH,
    "param_init_type": "float32",
    "compute_dtype": "float32",
}
VARIANTS = {
    "lora": {"pet_config": {"pet_type": "lora", "lora_rank": 4, "lora_dropout": 0.5}},
    "prefix": {"pre_seq_len": 5},
    "heads": {"multi_query_attention": False, "rmsnorm": False, "add_bias_linear": True, "hidden_dropout": 0.4},
}


def random_model(**changes):
    model, random = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**{**SHAPE, **changes})), np.random.default_rng(0)
    for parameter in model.get_parameters():
        scale = 0.2 if parameter.ndim > 1 else 0.1
        noise = random.normal(scale=scale, size=parameter.shape).astype(np.float32)
        parameter.set_data(Tensor(parameter.asnumpy() + noise, dtype=parameter.dtype))
    return model


def full_forwards(model, prompt, count):
    """Greedy tokens by forwards over whole, padded rows."""
    model.set_train(False)
    ids = list(prompt)
    for _ in range(count):
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(ids)] = ids
        ids.append(int(model(Tensor(row)).asnumpy()[0, len(ids) - 1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_generation_is_that_of_full_forwards(variant):
    model = random_model(**VARIANTS[variant])
    prompts = [[1, 2, 3, 4, 5], [9], list(range(30, 42))]
    expected = [full_forwards(model, prompt, 8) for prompt in prompts]
    model.set_train(True)  # in the middle of training: nothing may be dropped out
    engine = MindSporeEngine(model, chunk=7)
    results = generate(engine, prompts, GenerationConfig(max_new_tokens=8))
    engine.close()
    assert [result.ids for result in results] == expected
    assert len({tuple(ids) for ids in expected}) == 3
