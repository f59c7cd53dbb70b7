from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.config import load_config, make_config
from mindformers_glm.errors import ConfigErrors

EVAL = "run_mode=eval"


def faults(path) -> dict[str, str]:
    with pytest.raises(ConfigErrors) as caught:
        load_config(path)
    return {error.key: str(error) for error in caught.value.errors}


def test_the_small_configuration_is_sound(written):
    assert load_config(written()).run_mode == "finetune"


RULES = [
    (
        ["model.model_config.seq_length=100"],
        "model.model_config.seq_length",
        "32 + 48 + 1 = 81. Set seq_length to 81, or max_target_length to 67.",
    ),
    (["model.model_config.seq_length=20"], "model.model_config.seq_length", "32 + 48 + 1 = 81. Set seq_length to 81."),
    (["model.model_config.use_past=true", "model.model_config.seq_length=64"], "model.model_config.seq_length", "= 81"),
    (
        [EVAL, "model.model_config.seq_length=48"],
        "eval_dataset.max_source_length",
        "seq_length (48). Set max_source_length to 48 or less, or seq_length to 64.",
    ),
    (
        [EVAL, 'metric={"type": "PerplexityMetric"}'],
        "model.model_config.seq_length",
        "64 + 64 + 1 = 129 (PerplexityMetric compares rows of this length)",
    ),
    (["do_eval=true", "eval_dataset.max_source_length=99"], "eval_dataset.max_source_length", "seq_length (81)"),
    (
        ["model.model_config.multi_query_group_num=3"],
        "model.model_config.multi_query_group_num",
        "divide num_attention_heads (4): use one of 1, 2, 4.",
    ),
    (["load_checkpoint="], "load_checkpoint", "finetune starts from weights"),
    (["train_dataset.max_seq_length=99"], "train_dataset.max_seq_length", "seq_length (81). Set it to 81, or"),
    ([EVAL, "load_checkpoint="], "load_checkpoint", "allow_random_weights: True"),
    (["run_mode=train", "load_checkpoint="], "load_checkpoint", "allow_random_weights: True"),
    (["lr_schedule.lr_end=1e-3"], "lr_schedule.lr_end", "not be above lr_schedule.learning_rate (5e-05)"),
    (["lr_schedule=null"], "lr_schedule", "Give lr_schedule, or optimizer.learning_rate"),
    (["lr_schedule.warmup_ratio=1.5"], "lr_schedule.warmup_ratio", "between 0 and 1"),
    (["lr_schedule.warmup_steps=20", "lr_schedule.total_steps=10"], "lr_schedule.warmup_steps", "total_steps (10)"),
    (["lr_schedule.warmup_steps=-1"], "lr_schedule.warmup_steps", "of 0 or more"),
    (["runner_config.sink_size=0"], "runner_config.sink_size", "-1 for a whole epoch"),
    (["lr_scale=true"], "lr_scale", "lr_schedule.learning_rate: 7.8125e-07 for 1 device(s)"),
    (["optimizer=null"], "optimizer", "run_mode finetune needs this section"),
    (["do_eval=true", "metric=null"], "metric", "run_mode finetune with do_eval needs this section"),
    (["do_eval=true", "eval_dataset=null"], "eval_dataset", "needs this section"),
    ([EVAL, "model=null"], "model", "run_mode eval needs this section"),
    (
        ["use_parallel=true", "parallel_config.pipeline_stage=2"],
        "parallel_config.micro_batch_num",
        "pipeline_stage (2)",
    ),
    (["run_mode=export", 'infer={"infer_seq_length": 512}'], "infer.infer_seq_length", "seq_length (81)"),
]


@pytest.mark.parametrize(("changes", "key", "said"), RULES)
def test_a_contradiction_names_the_numbers_and_the_repair(written, changes, key, said):
    found = faults(written(*changes))
    assert said in found[key]
    assert len(found) == 1


ACCEPTED = [
    ["model.model_config.use_past=true", "model.model_config.seq_length=256"],  # an evaluation file that says train
    [EVAL, "model.model_config.seq_length=128"],
    [EVAL, "optimizer=null", "train_dataset=null", "train_dataset_task=null"],
    [EVAL, "metric=null", 'metric={"type": "PerplexityMetric"}', "model.model_config.seq_length=129"],
    ["run_mode=predict", "eval_dataset=null", "eval_dataset_task=null", "optimizer=null"],
    ["run_mode=train", "load_checkpoint=", "allow_random_weights=true"],
    ["run_mode=train", "load_checkpoint=", "model.model_config.checkpoint_name_or_path=glm2_6b"],
    ["load_checkpoint=", "resume_training=true"],
    ["lr_schedule=null", "optimizer.learning_rate=0.1"],
    ['train_dataset.data_loader={"type": "MindDataset"}', "model.model_config.seq_length=100"],
    ["train_dataset_task.type=MultiTurnDataset", "model.model_config.seq_length=100"],
    ["model.model_config.multi_query_attention=false", "model.model_config.multi_query_group_num=3"],
    ["model.model_config.use_past=true", "model.model_config.batch_size=2", EVAL],  # the cache takes any batch
]  # fmt: skip


@pytest.mark.parametrize("changes", ACCEPTED)
def test_what_is_no_contradiction_is_accepted(written, changes):
    load_config(written(*changes))


@pytest.mark.parametrize("name", ["RANK_SIZE", "MS_WORKER_NUM"])
def test_the_axes_make_up_the_processes_that_were_started(written, monkeypatch, name):
    monkeypatch.delenv("RANK_SIZE", raising=False)
    monkeypatch.delenv("MS_WORKER_NUM", raising=False)
    axes = ["parallel_config.data_parallel=4", "parallel_config.model_parallel=2"]
    changes = ["use_parallel=true", "parallel.parallel_mode=1", *axes]
    load_config(written(*changes))  # no launcher: nothing to compare with
    monkeypatch.setenv(name, "8")
    load_config(written(*changes))
    monkeypatch.setenv(name, "4")
    said = faults(written(*changes))["parallel_config.data_parallel"]
    assert "data_parallel 4 x model_parallel 2 x pipeline_stage 1 = 8, and 4 processes" in said
    assert "Set data_parallel to 2." in said
    load_config(written(*changes, "parallel.parallel_mode=data_parallel"))  # every process is one part of the data


def test_all_faults_are_reported_at_once(written):
    found = faults(
        written(
            "seed=abc", "contxt.mode=1", "model.model_config.seq_length=99", "runner_config.epochs=0", "callbacks=3",
            "context.device_target=GPU", "parallel_config.dta_parallel=2", "load_checkpoint=", "metric=5",
        )
    )  # fmt: skip
    assert set(found) == {
        "seed", "contxt", "model.model_config.seq_length", "runner_config.epochs", "callbacks", "context.device_target",
        "parallel_config.dta_parallel", "load_checkpoint", "metric",
    }  # fmt: skip
    assert all("\n" not in line for line in found.values())


def test_rules_hold_beside_faults_of_type(written):
    found = faults(written("train_dataset.max_source_length=abc", "lr_schedule.lr_end=1"))
    assert set(found) == {"train_dataset.max_source_length", "lr_schedule.lr_end"}


SMALL = yaml.safe_load(Path(__file__).with_name("small.yaml").read_text())
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["train", "eval", "predict", "export", "None", "1e-5", "ADGENMetric"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["type", "seq_length", "x", "learning_rate"]), st.integers(), max_size=2),
)


def places(value, above=()):
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*above, key))
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(places(SMALL)), VALUES), min_size=1, max_size=4))
def test_whatever_stands_in_a_file_the_answer_is_a_configuration_or_faults(changes):
    values = copy.deepcopy(SMALL)
    for place, value in changes:
        below = values
        for part in place[:-1]:
            keys = below if isinstance(below, dict) else range(len(below)) if isinstance(below, list) else ()
            is_there = part in keys
            below = below[part] if is_there else {}
        if isinstance(below, dict):
            below[place[-1]] = value
    with contextlib.suppress(ConfigErrors):
        make_config(values)
