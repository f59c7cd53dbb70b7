from __future__ import annotations

import re
from pathlib import Path

import pytest

from mindformers_glm.config import load_config
from mindformers_glm.config.legacy import NO_EFFECT, PROFILER_KEYS
from mindformers_glm.config.schema import known_keys, schema_keys, section_of
from mindformers_glm.errors import ConfigErrors

FROZEN = Path(__file__).with_name("schema_keys.txt")


def test_the_set_of_keys_grows_by_choice_only():
    """A new key needs a line in schema_keys.txt, a use in configs/ or in the compatibility list, and a test."""
    assert schema_keys() == FROZEN.read_text().split()


def test_keys_without_effect_are_keys():
    assert {row.key for row in NO_EFFECT} <= set(schema_keys())
    assert len({row.key for row in NO_EFFECT}) == len(NO_EFFECT)


BY_NAME = {"eval_dataset_task", "register_path"}  # f"{phase}_dataset_task", and the command line


def test_a_key_is_read_somewhere_or_listed_as_without_effect(root):
    declares = ("schema.py", "sections.py", "arguments.py", "legacy.py")
    files = [path for path in (root / "mindformers_glm").rglob("*.py") if path.name not in declares]
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in files)))
    listed = {row.key for row in NO_EFFECT} | set(PROFILER_KEYS) | BY_NAME
    values = [key for key in schema_keys() if section_of(tuple(key.split("."))) is None]
    silent = [key for key in values if key not in listed and key.rpartition(".")[2] not in words]
    assert [key for key in silent if not key.startswith("infer.")] == []  # read by export and Lite


def test_sections_are_found_by_their_place():
    assert "save_file" in known_keys(section_of(("parallel", "strategy_ckpt_config")))
    assert section_of(("model", "model_config")) is None
    assert section_of(("nothing",)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("learning_rate=1", "learning_rate: got 1. Unknown key. Did you mean lr_schedule.learning_rate?"),
        ("seq_length=1", "seq_length: got 1. Unknown key. Did you mean model.model_config.seq_length?"),
        ("runner_confg.epochs=1", "runner_confg: got {'epochs': 1}. Unknown key. Did you mean 'runner_config'?"),
        ("batch_size=1", "batch_size: got 1. Unknown key. Did you mean runner_config.batch_size or"),
        ("zzzz=1", "zzzz: got 1. Unknown key. No key of this section resembles it."),
        ("context.devise_id=1", "context.devise_id: got 1. Unknown key. Did you mean 'device_id'?"),
        ("trainer.zzzz=1", "trainer.zzzz: got 1. Unknown key. Known keys: model_name, type."),
        ("model.modl_config.x=1", "Did you mean 'model_config'?"),
        ("parallel.strategy_ckpt_config.save_fil=x", "Did you mean 'save_file'?"),
        ("recompute_config.recompte=1", "Did you mean 'recompute'?"),
        ("moe_config.experts=1", "moe_config.experts: got 1. Unknown key."),
        ("train_dataset.max_sorce_length=1", "Did you mean 'max_source_length'?"),
        ("train_dataset_task.kind=1", "train_dataset_task.kind: got 1. Unknown key."),
        ("runner_config.epochs=0", "runner_config.epochs: got 0. It should be at least 1."),
        ("runner_config.epochs=true", "runner_config.epochs: got True. Expected a number."),
        ("runner_config.epochs=1.5", "runner_config.epochs: got 1.5. It should be a whole number"),
        ("runner_config.sink_mode=maybe", "runner_config.sink_mode: got 'maybe'. It should be True or False."),
        ("context.mode=2", "context.mode: got 2. It should be 0 or 1."),
        ("parallel.parallel_mode=fast", "parallel.parallel_mode: got 'fast'. It should be 0, 1, 2 or 3."),
        ("recompute_config.recompute=some", "True or False, or: It should be a whole number, or: It should be a list."),
        ("callbacks=MFLossMonitor", "callbacks: got 'MFLossMonitor'. It should be a list."),
        ("callbacks.0=MFLossMonitor", "callbacks.0: got 'MFLossMonitor'. It should be a mapping"),
        ("model.arch=null", "model.arch: got None. This key must be given."),
        ("optimizer=adamw", "optimizer: got 'adamw'. It should be a mapping of `key: value` lines."),
        ('infer={"model_type": "onnx"}', "infer.model_type: got 'onnx'. It should be 'mindir' or 'mindir_lite'."),
        ("train_dataset.label_convention=0.9", "It should be '1.0' or '0.8'."),
    ],
)
def test_an_unknown_key_or_a_wrong_type_is_one_clear_line(written, change, said):
    with pytest.raises(ConfigErrors) as caught:
        load_config(written(change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "key", "meant"),
    [
        ("context.mode=PYNATIVE_MODE", ("context", "mode"), 1),
        ("context.mode=graph", ("context", "mode"), 0),
        ("parallel.parallel_mode=SEMI_AUTO_PARALLEL", ("parallel", "parallel_mode"), 1),
        ("parallel.parallel_mode=stand_alone", ("parallel", "parallel_mode"), 0),
        ("runner_config.epochs=1e1", ("runner_config", "epochs"), 10),
        ("train_dataset.label_convention=0.8", ("train_dataset", "label_convention"), "0.8"),
        ("train_dataset.label_convention=1.0", ("train_dataset", "label_convention"), "1.0"),
        ("recompute_config.recompute=3", ("recompute_config", "recompute"), 3),
        ("recompute_config.recompute=true", ("recompute_config", "recompute"), True),
        ("recompute_config=null", ("recompute_config", "recompute"), False),
        ("output_dir=7", ("output_dir",), "7"),
        ("context.max_call_depth=null", ("context", "max_call_depth"), None),
        ("train_dataset.input_columns=input_ids", ("train_dataset", "input_columns"), ["input_ids"]),
    ],
)
def test_values_are_read_as_users_mean_them(written, change, key, meant):
    value = load_config(written(change)).to_dict()
    for part in key:
        value = value[part]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("run_mode=fintune", "Did you mean 'finetune'?"),
        ("run_mode=Predcit", "Did you mean 'predict'?"),
        ("context.device_target=Asend", "Did you mean 'Ascend'?"),
        ('infer={"model_type": "mindr"}', "Did you mean 'mindir'?"),
        ("runner_config.epochs=１２，", "full-width"),
    ],
)
def test_a_misspelt_choice_is_answered_with_the_one_that_was_meant(written, change, said):
    with pytest.raises(ConfigErrors) as caught:
        load_config(written(change))
    assert said in str(caught.value)
    assert len(caught.value.errors) == 1


def test_the_device_is_read_in_any_case(written):
    assert load_config(written("context.device_target=ASCEND")).context.device_target == "Ascend"


SILENT = {  # keys that nothing reads, with a value that MindFormers would have used
    "infer.target=Ascend", "infer.model_name=glm2", "infer.device_id=3", "infer.rank_id=1",
    "infer.paged_attention=True", "infer.ge_config_path=x.ini", "auto_trans_ckpt=True", "adapter_id=x",
    "transform_process_num=4", 'eval_callbacks=[{"type": "SummaryMonitor"}]', "parallel_config.seq_split_num=2",
}  # fmt: skip


@pytest.mark.parametrize("change", sorted(SILENT))
def test_a_key_without_effect_is_said_with_its_reason(written, change):
    notes = load_config(written(change)).notes
    key = change.partition("=")[0]
    (note,) = [note for note in notes if note.startswith(f"{key}: ")]
    assert "has no effect here: " in note
