"""The forms `glm` and `glm4` of transformers in and out: names, shapes and bits come back as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conversions import tiny_arrays
from safetensors.numpy import save_file

from mindformers_glm.checkpoint.convert.plan import plan_conversion
from mindformers_glm.checkpoint.convert.run import run_plan
from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.models.naming import joins, megatron_name


def converted(source, target, form):
    config = read_config(source / ("config.yaml" if (source / "config.yaml").is_file() else "config.json"))[0]
    run_plan(plan_conversion(read_weights(source), target, form, config=config))
    return target


@pytest.mark.parametrize("form", ["glm4_9b_0414", "glm4_32b_0414", "edge_4b", "edge_1_5b", "chat_hf"])
def test_a_circle_keeps_every_bit(golden, tmp_path, form):
    source = golden / "glm4" / form
    ours = converted(source, tmp_path / "ours", "ours")
    again = converted(ours, tmp_path / "again", "transformers")
    first, last = read_weights(source), read_weights(again)
    assert set(first.names) == set(last.names)
    assert last.naming == "native"
    for name in first.names:
        assert (first.read_bits(name) == last.read_bits(name)).all(), name
    given, written = (json.loads((folder / "config.json").read_text()) for folder in (source, again))
    rope = given.pop("rope_parameters", {})
    given |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    for key in (
        "model_type",
        "architectures",
        "attention_bias",
        "tie_word_embeddings",
        "num_key_value_heads",
        "head_dim",
    ):
        assert written[key] == given[key]
    assert written["partial_rotary_factor"] == given.get("partial_rotary_factor", 0.5)
    assert read_config(again / "config.json")[0] == read_config(source / "config.json")[0]


@pytest.mark.parametrize("form", ["glm4_9b_0414", "glm4_32b_0414", "edge_1_5b", "chat_1m", "codegeex2"])
def test_mcore_names_there_and_back(golden, tmp_path, form):
    """MindFormers' own table of names (2.1, models/glm4): query, key and value apart, gate and up joined."""
    source = golden / "glm4" / form
    mcore = converted(source, tmp_path / "mcore", "mcore")
    names = set(open_safetensors(mcore / "model.safetensors").entries)
    config = read_config(source / "config.json")[0]
    wanted = {"embedding.word_embeddings.weight", "decoder.final_layernorm.weight"}
    wanted |= set() if config.tie_word_embeddings and "output_layer.weight" not in names else {"output_layer.weight"}
    layer = ["input_layernorm", "pre_mlp_layernorm", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"]
    layer += [f"self_attention.linear_{part}" for part in "qkv"]
    layer += ["post_self_attn_layernorm", "post_mlp_layernorm"] if config.post_mlp_layernorm else []
    suffixed = [f"{name}.weight" for name in layer]
    suffixed += [f"self_attention.linear_{part}.bias" for part in "qkv"] if config.add_qkv_bias else []
    wanted |= {f"decoder.layers.{i}.{name}" for i in range(config.num_layers) for name in suffixed}
    assert names == wanted
    back = converted(mcore, tmp_path / "back", "transformers")
    first, last = read_weights(source), read_weights(back)
    assert read_weights(mcore).naming == "mcore" and not first.unknown
    for name in last.names:
        assert (first.read_bits(name) == last.read_bits(name)).all(), name


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_mcore_names_joined_or_apart(tmp_path, prefix):
    """Joined query, key and value, gate and up apart: the other choices that MindFormers has."""
    arrays = tiny_arrays()
    named = {}
    for name, value in arrays.items():
        if joins(name) == "mlp":
            for part, rows in zip(("gating", "hidden"), np.split(value, 2), strict=True):
                named[megatron_name(name).replace("linear_fc1", part)] = rows
        else:
            named[megatron_name(name)] = value
    save_file({prefix + name: value for name, value in named.items()}, tmp_path / "model.safetensors")
    found = read_weights(tmp_path)
    assert set(found.names) == set(arrays) and not found.unknown
    for name, value in arrays.items():
        assert found.read(name).tobytes() == value.tobytes(), name
