"""The table of weight names against the official indexes and against the network."""

from __future__ import annotations

import json

import pytest
from tiny_networks import random_network, tiny_config

from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import WEIGHTS, expected_shapes, gate_up_parts, is_ignored, qkv_parts, rename

MODELS = ["chatglm2-6b", "chatglm2-6b-32k", "chatglm3-6b", "chatglm3-6b-32k", "codegeex2-6b"]


@pytest.mark.parametrize("model", MODELS)
def test_every_official_tensor_maps_and_back(shared, model):
    index = json.loads((shared / f"data/configs/{model}/pytorch_model.bin.index.json").read_text())
    names = [name for name in index["weight_map"] if not is_ignored(name)]
    assert len(names) == 199 == len(index["weight_map"]) - 1
    ours = [rename(name, "hf", "ours") for name in names]
    assert set(ours) == set(expected_shapes(ChatGLM2Config()))
    assert [rename(name, "ours", "hf") for name in ours] == names


def test_the_shapes_are_those_of_the_6b_model():
    shapes = expected_shapes(ChatGLM2Config())
    layer = "transformer.encoder.layers.27."
    assert shapes["transformer.embedding.embedding_table"] == (65024, 4096)
    assert shapes[layer + "self_attention.query_key_value.weight"] == (4608, 4096)
    assert shapes[layer + "mlp.dense_h_to_4h.weight"] == (27392, 4096)
    assert shapes[layer + "mlp.dense_4h_to_h.weight"] == (4096, 13696)
    numbers = 0
    for shape in shapes.values():
        numbers += shape[0] * (shape[1] if len(shape) == 2 else 1)
    assert numbers == 6_243_584_000


def test_mindformers_1_2_renames_the_embedding_only():
    names = expected_shapes(tiny_config())
    changed = {name: rename(name, "ours", "mf12") for name in names if rename(name, "ours", "mf12") != name}
    assert changed == {"transformer.embedding.embedding_table": "transformer.embedding.embedding_weight"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_bias_linear": True},
        {"add_qkv_bias": False},
        {"rmsnorm": False},
        {"post_layer_norm": False, "rmsnorm": False},
        {"multi_query_attention": False},
        {"kv_channels": 16},
    ],
)
def test_the_network_has_exactly_the_expected_parameters(changes):
    model = random_network(**changes)
    assert {name: value.shape for name, value in model.parameters_dict().items()} == expected_shapes(model.config)


def test_fused_parts_cover_their_weight():
    config = tiny_config()
    shapes = expected_shapes(config)
    for row in WEIGHTS:
        if row.parts and row.present(config):
            assert sum(row.parts(config)) == shapes[row.ours.format(0)][0]
            assert len(row.split) == len(row.parts(config))
    assert qkv_parts(ChatGLM2Config()) == [4096, 256, 256]
    assert gate_up_parts(ChatGLM2Config()) == [13696, 13696]


def test_an_unknown_name_is_named():
    with pytest.raises(CheckpointError, match="lm_head.weight: no weight of ChatGLM2/3 has this name"):
        rename("lm_head.weight", "hf", "ours")
