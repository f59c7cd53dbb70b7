"""The forms `glm` and `glm4` of transformers in and out: names, shapes and bits come back as they were."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.checkpoint.convert.plan import plan_conversion
from mindformers_glm.checkpoint.convert.run import run_plan
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.source import read_weights


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
