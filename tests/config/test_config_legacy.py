from __future__ import annotations

import pytest

from mindformers_glm.config import load_config
from mindformers_glm.config.legacy import NO_EFFECT, lookup, normalise


def test_every_reason_is_a_reason():
    keys = {row.key for row in NO_EFFECT}
    for row in NO_EFFECT:
        assert row.reason.removeprefix("as ") in keys if row.reason.startswith("as ") else len(row.reason) > 10, row.key


def test_the_text_none_is_nothing_everywhere():
    values = {"model": {"model_config": {"pre_seq_len": "None", "no_recompute_layers": "None"}}, "a": ["None", "none"]}
    assert normalise(values) == {
        "model": {"model_config": {"pre_seq_len": None, "no_recompute_layers": None}}, "a": [None, "none"],
    }  # fmt: skip


def test_both_spellings_of_a_callback_argument_are_taken():
    values = {"callbacks": [{"type": "ObsMonitor", "step_upload_frequency": 3}]}
    assert normalise(values) == {"callbacks": [{"type": "ObsMonitor", "step_upload_frequence": 3}]}


def test_one_callback_may_stand_without_its_dash():
    assert normalise({"callbacks": {"type": "MFLossMonitor"}, "eval_callbacks": None}) == {
        "callbacks": [{"type": "MFLossMonitor"}]
    }


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("moe_config.expert_num=8", "moe_config.expert_num"),
        ("auto_tune=true", "auto_tune"),
        ("layer_scale=true", "layer_scale"),
        ("remote_save_url=obs://bucket/x", "remote_save_url"),
        ("context.enable_graph_kernel=true", "context.enable_graph_kernel"),
        ("context.save_graphs=true", "context.save_graphs"),
    ],
)
def test_a_key_without_effect_is_said_once_with_its_reason(written, change, key):
    (note,) = load_config(written(change)).notes
    assert note.startswith(f"{key}: ")
    assert " has no effect here: " in note


@pytest.mark.parametrize(
    "changes",
    [
        ["moe_config.expert_num=1", "moe_config.capacity_factor=1.05", "auto_tune=false", "filepath_prefix=./autotune"],
        ["remote_save_url=Please input obs url on AICC platform.", "layer_scale=false", "layer_decay=0.65"],
        ["context.enable_graph_kernel=false", "context.graph_kernel_flags=--reduce_fuse_depth\\=8"],
        ["profile=false", "profile_start_step=1", "init_start_profile=true", "context.max_device_memory=30GB"],
        ["profile=true"],
    ],
)
def test_a_key_whose_value_would_not_have_mattered_is_not_mentioned(written, changes):
    assert load_config(written(*changes)).notes == []


def test_lookup_stops_where_the_way_ends():
    assert lookup({"a": {"b": 1}}, "a.b") == 1
    assert lookup({"a": 1}, "a.b") is None
    assert lookup(None, "a") is None
