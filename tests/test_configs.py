"""Every YAML of configs/ loads with every component checked, and its network builds at a small size."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path

import pytest
import yaml

from mindformers_glm import registry
from mindformers_glm.config import load_config, make_config, read_yaml
from mindformers_glm.config.loader import merge
from mindformers_glm.config.names import MODEL_NAMES
from mindformers_glm.errors import ConfigErrors
from mindformers_glm.models.build import build_model

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if path.parent.name != "base")
SMALL = {
    "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4,
    "multi_query_group_num": 2, "padded_vocab_size": 128, "param_init_type": "float32", "compute_dtype": "float32",
}  # fmt: skip
KNOWN = [
    "glm2/run_glm2_6b", "glm2/run_glm2_6b_finetune", "glm2/run_glm2_6b_finetune_910b", "glm2/run_glm2_6b_finetune_2k",
    "glm2/run_glm2_6b_finetune_2k_910b", "glm2/run_glm2_6b_finetune_eval", "glm2/run_glm2_6b_lora",
    "glm2/run_glm2_6b_lora_910b", "glm2/run_glm2_6b_lora_2k", "glm2/run_glm2_6b_lora_2k_910b",
    "glm2/run_glm2_6b_lora_eval", "glm2/export_glm2_6b", "glm2/run_glm2_6b_32k", "glm3/run_glm3_6b",
    "glm3/run_glm3_6b_finetune_2k_910b", "glm3/run_glm3_6b_32k", "glm3/export_glm3_6b", "glm2/run_glm2_6b_ptuning2",
    "glm3/run_glm3_6b_multiturn_finetune", "tiny/run_glm2_tiny",
    "tiny/run_glm2_tiny_finetune", "tiny/run_glm2_tiny_lora", "tiny/run_glm2_tiny_eval",
    "tiny/run_glm2_tiny_own_data", "tiny/run_glm3_tiny_own_data",
    "glm2/run_glm2_6b_own_data", "glm3/run_glm3_6b_own_data",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def components():
    """Every package that registers components, as run_mindformer.py imports them."""
    importlib.import_module("mindformers_glm.components")


def test_the_files_that_users_know_are_there():
    assert {f"{name}.yaml" for name in KNOWN} <= set(FILES)


def test_every_model_name_has_its_file():
    assert {name.yaml for name in MODEL_NAMES.values()} <= set(FILES)


def test_every_base_is_used():
    text = "".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    for path in (CONFIGS / "base").glob("*.yaml"):
        assert path.name in text, path.name


@cache
def loaded(name):
    return load_config(CONFIGS / name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_loads_and_its_network_builds(name):
    config = loaded(name)
    shape = config.model.config
    small = {**shape, **SMALL, "seq_length": 16, "no_recompute_layers": None}
    model = build_model({"model_config": small, "arch": config.model.arch})
    names = [parameter.name for parameter in model.get_parameters()]
    assert "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight" in names
    kind = (shape.get("pet_config") or {}).get("pet_type", "no adapter")
    assert {"lora": "delta_lora", "ptuning2": "delta_ptuning2"}.get(kind, "weight") in " ".join(names)


def modes(name: str) -> list[str]:
    """The run modes that a file has the sections for."""
    trains = "eval" not in name and name != "tiny/run_glm2_tiny.yaml"
    evaluates = "multiturn" not in name
    return [] if "export" in name else ["predict"] + ["train", "finetune"] * trains + ["eval"] * evaluates


MODES = [(name, mode) for name in FILES for mode in modes(name)]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_file_serves_the_modes_it_is_for(name, mode):
    overrides, config = [f"run_mode={mode}", "load_checkpoint=x.ckpt"], loaded(name)
    if config.eval_dataset and config.metric["type"] == "ADGENMetric":  # prompts of 256 tokens need seq_length 256
        overrides.append("eval_dataset.max_source_length=64")
    load_config(CONFIGS / name, overrides)


@pytest.mark.parametrize("name", FILES)
def test_a_file_begins_with_the_command_that_runs_it(name):
    lines = (CONFIGS / name).read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[1].startswith("#   ") and f"configs/{name}" in lines[1]


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_only_what_differs(name):
    """A value that the bases give already is not written again."""
    own = yaml.safe_load((CONFIGS / name).read_text())
    bases = own.pop("base_config")
    below: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        below = merge(below, read_yaml((CONFIGS / name).parent / base))
    repeated = [place for place, value in leaves(own) if at(below, place) == value and place[-1] != "type"]
    assert not repeated


def leaves(value, above=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*above, key))
    else:
        yield above, value


def at(value, place):
    for part in place:
        value = value.get(part) if isinstance(value, dict) else None
    return value


# Values of sections 1.4 and 1.5 of the compatibility document, in the form of 1.0.
TABLE = {
    "glm2/run_glm2_6b": (193, False, 64, 128, 8, 1, "30GB", False, 8, 1),
    "glm2/run_glm2_6b_finetune": (192, False, 64, 127, 8, 1, "30GB", True, 8, 1),
    "glm2/run_glm2_6b_finetune_910b": (192, False, 64, 127, 8, 1, "59GB", True, 8, 1),
    "glm2/run_glm2_6b_finetune_2k": (2048, False, 1023, 1024, 2, 1, "30GB", True, 1, 8),
    "glm2/run_glm2_6b_finetune_2k_910b": (2048, False, 1023, 1024, 4, 1, "59GB", True, 8, 1),
    "glm2/run_glm2_6b_finetune_eval": (256, True, 64, 128, 8, 8, "30GB", False, 8, 1),
    "glm2/run_glm2_6b_lora": (192, False, 64, 127, 8, 1, "30GB", True, 8, 1),
    "glm2/run_glm2_6b_lora_910b": (192, False, 64, 127, 8, 1, "59GB", True, 8, 1),
    "glm2/run_glm2_6b_lora_2k": (2048, False, 1023, 1024, 4, 1, "30GB", True, 8, 1),
    "glm2/run_glm2_6b_lora_2k_910b": (2048, False, 1023, 1024, 4, 1, "59GB", True, 8, 1),
    "glm2/run_glm2_6b_lora_eval": (256, True, 64, 128, 8, 8, "30GB", False, 8, 1),
    "glm3/run_glm3_6b": (193, False, 64, 128, 8, 1, "59GB", False, 8, 1),
    "glm3/run_glm3_6b_finetune_2k_910b": (2048, False, 1024, 1023, 4, 1, "59GB", True, 8, 1),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_values_are_those_of_the_documentation(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    model, data, sizes = config.model.config, config.train_dataset, config.parallel_config
    assert (
        model["seq_length"], model["use_past"], data.max_source_length, data.max_target_length,
        config.runner_config.batch_size, model["batch_size"], config.context.max_device_memory, config.use_parallel,
        sizes.data_parallel, sizes.model_parallel,
    ) == TABLE[name]  # fmt: skip
    prefix = "glm3-6b" if "glm3" in name else "glm2-6b-lora" if "lora" in name else "glm2-6b"
    saving = next(item for item in config.callbacks if item["type"].startswith("Checkpoint"))
    assert (saving["prefix"], saving["save_checkpoint_steps"]) == (prefix, 1000)
    assert model["use_flash_attention"] is ("910b" in name and "glm3" not in name)


def old_file(golden: Path, name: str) -> dict:
    """One of the twelve files of MindFormers 0.8 as the nested mapping it was."""
    flat = json.loads((golden / "mindformers_r08/yaml_keys.json").read_text())["files"][name]
    nested: dict = {}
    for key, value in flat.items():
        below = nested
        *above, leaf = key.split(".")
        for part in above:
            below = below.setdefault(part, {})
        below[leaf] = value
    return with_lists(nested)


def with_lists(value):
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [with_lists(value[key]) for key in sorted(value, key=int)]
    return {key: with_lists(item) for key, item in value.items()}


OLD = [
    "export_glm2_6b.yaml", "run_glm2_6b.yaml", "run_glm2_6b_finetune.yaml", "run_glm2_6b_finetune_2k.yaml",
    "run_glm2_6b_finetune_2k_910b.yaml", "run_glm2_6b_finetune_910b.yaml", "run_glm2_6b_finetune_eval.yaml",
    "run_glm2_6b_lora.yaml", "run_glm2_6b_lora_2k.yaml", "run_glm2_6b_lora_2k_910b.yaml",
    "run_glm2_6b_lora_910b.yaml", "run_glm2_6b_lora_eval.yaml",
]  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_a_file_of_mindformers_loads_unchanged(golden, tmp_path, name):
    values = old_file(golden, name)
    path = tmp_path / name
    path.write_text(yaml.safe_dump(values, sort_keys=False))  # writes None and 1e-5 without quotes, as users do
    config = load_config(path)
    assert config.model.config["layernorm_epsilon"] == 1e-5
    assert config.model.config["pre_seq_len"] is None
    assert make_config(values).context == config.context
    shape = {**config.model.config, **SMALL, "seq_length": 16}
    built = registry.CONFIGS.build(shape, "model.model_config")
    assert built.layernorm_epsilon == 1e-5


@pytest.mark.parametrize("name", [name for name in OLD if "eval" in name])
def test_an_evaluation_file_of_mindformers_evaluates(golden, name):
    config = make_config({**old_file(golden, name), "run_mode": "eval"})
    assert config.eval_dataset.batch_size == 8


def test_our_files_hold_the_keys_of_the_old_ones(golden):
    """A user finds the sections they know: every top-level key of the old file is a key of the schema."""
    keys = set(old_file(golden, "run_glm2_6b_lora.yaml"))
    assert keys <= set(load_config(CONFIGS / "glm2/run_glm2_6b_lora.yaml").to_dict())


def test_faults_of_real_components_come_all_at_once():
    with pytest.raises(ConfigErrors) as caught:
        load_config(
            CONFIGS / "glm2/run_glm2_6b_lora.yaml",
            [
                "model.model_config.num_layer=2", "model.model_config.pet_config.lora_ranks=2", "optimizer.beta3=0.1",
                "lr_schedule.lr_end=1", "train_dataset.data_loader.dataset_dri=x", "runner_config.epoch=2",
                "processor.tokenizer.vocabfile=x",
            ],
        )  # fmt: skip
    assert {error.key for error in caught.value.errors} >= {
        "model.model_config.num_layer", "optimizer.beta3", "lr_schedule.lr_end",
        "train_dataset.data_loader.dataset_dri", "runner_config.epoch", "processor.tokenizer.vocabfile",
    }  # fmt: skip


DATASET_KEYS = {  # section 6.2 of the compatibility document
    "input_columns": ["input_ids", "labels"], "max_source_length": 64, "max_target_length": 127,
    "ignore_pad_token_for_loss": True, "num_parallel_workers": 8, "python_multiprocessing": False,
    "drop_remainder": True, "batch_size": 8, "repeat": 1, "numa_enable": False, "prefetch_size": 1, "seed": 0,
    "auto_tune": False, "filepath_prefix": "./autotune", "autotune_per_step": 10, "profile": False, "do_eval": False,
}  # fmt: skip


def test_every_dataset_key_of_mindformers_is_taken():
    path = CONFIGS / "glm2/run_glm2_6b_finetune.yaml"
    config = load_config(path, {"train_dataset": DATASET_KEYS, "eval_dataset": DATASET_KEYS})
    given = config.train_dataset.to_dict()
    assert {**given, **DATASET_KEYS} == given
    assert load_config(path, ["train_dataset.label_convention=0.8"]).train_dataset.label_convention == "0.8"


FINE_TUNING = [name for name, mode in MODES if mode == "finetune"]
DOCUMENTED_EVALUATION = {  # as the documents print it: prompts without answers, 64 + 128 + 1 tokens
    "do_eval": True, "eval_step_interval": 500, "eval_epoch_interval": -1,
    "eval_dataset": {
        "data_loader": {"type": "ADGenDataLoader", "dataset_dir": "dev.json", "shuffle": False, "phase": "eval",
                        "version": 2, "origin_columns": ["content", "summary"]},
        "max_source_length": 64, "max_target_length": 128, "batch_size": 8,
    },
    "eval_dataset_task": {"type": "KeyWordGenDataset"},
}  # fmt: skip


@pytest.mark.parametrize("metric", ["ADGENMetric", "PerplexityMetric"])
@pytest.mark.parametrize("name", FINE_TUNING)
def test_evaluation_while_training_takes_the_documented_section(name, metric):
    change = {**DOCUMENTED_EVALUATION, "run_mode": "finetune", "load_checkpoint": "x", "metric": {"type": metric}}
    config = load_config(CONFIGS / name, change)
    rows = config.eval_dataset.max_source_length + config.eval_dataset.max_target_length + 1
    if metric == "PerplexityMetric":
        assert config.eval_dataset.data_loader["phase"] == "train"
        assert rows <= config.model.config["seq_length"]
        assert any("phase: train replaces eval" in note for note in config.notes)
    else:
        assert config.eval_dataset.data_loader["phase"] == "eval"


def test_a_metric_of_texts_is_never_given_the_answers():
    words = ["run_mode=eval", "load_checkpoint=x", "metric.type=ADGENMetric", "eval_dataset.data_loader.phase=train"]
    config = load_config(CONFIGS / "tiny/run_glm2_tiny_finetune.yaml", words)
    assert config.eval_dataset.data_loader["phase"] == "eval"
    assert any("ADGENMetric reads prompts without their answers" in note for note in config.notes)


LATER = [  # keys of MindFormers' files of 0.7, 1.0 to 1.5, and what they come to
    ("model.model_config.softmax_compute_type=float32", None),
    ("model.model_config.softmax_compute_type=bfloat16", "softmax is always computed in float32"),
    ("model.model_config.rotary_percent=0.5", None),
    ("model.model_config.interleaved_qkv=False", None),
    ('model.model_config.auto_map={"AutoTokenizer": ["a.B", null]}', "code that comes with weights is never run"),
    ("processor.tokenizer.chat_template={{x}}", "not by a template"),
    ("optimizer.betas=[0.9, 0.999]", None),
    ("lr_schedule.lr_end=5e-5", None),
    ("auto_trans_ckpt=True", "re-sharded"),
]


@pytest.mark.parametrize(("change", "said"), LATER)
def test_keys_of_later_files_are_taken_and_said(change, said):
    notes = load_config(CONFIGS / "glm2/run_glm2_6b.yaml", [change]).notes
    assert (
        any(said in note for note in notes) if said else notes == load_config(CONFIGS / "glm2/run_glm2_6b.yaml").notes
    )


def test_betas_are_the_two_numbers():
    config = load_config(CONFIGS / "glm2/run_glm2_6b.yaml", ["optimizer.betas=[0.8, 0.999]"])
    assert (config.optimizer["beta1"], config.optimizer["beta2"]) == (0.8, 0.999)
    assert "betas" not in config.optimizer


@pytest.mark.parametrize(("key", "value"), [("interleaved_qkv", True), ("moe_config", {"expert_num": 8})])
def test_another_network_is_refused(key, value):
    with pytest.raises(ConfigErrors, match=f"model.model_config.{key}"):
        load_config(CONFIGS / "glm2/run_glm2_6b.yaml", {"model": {"model_config": {key: value}}})


def test_the_lora_network_of_0_7_is_the_network_with_an_adapter():
    arch = {"model": {"arch": {"type": "ChatGLM2WithLora"}}}
    config = load_config(CONFIGS / "glm2/run_glm2_6b_lora.yaml", arch)
    assert config.model.arch["type"] == "ChatGLM2ForConditionalGeneration"
    bare = load_config(CONFIGS / "glm2/run_glm2_6b.yaml", arch).model.config["pet_config"]
    assert bare == config.model.config["pet_config"]  # the values that MindFormers ships


def test_classes_of_glm32k_are_those_of_chatglm3():
    values = read_yaml(CONFIGS / "glm3/run_glm3_6b_32k.yaml")
    values["model"]["model_config"]["type"] = "ChatGLM32kConfig"
    values["model"]["arch"]["type"] = "ChatGLM32kForConditionalGeneration"
    values["processor"]["tokenizer"]["type"] = "ChatGLM32kTokenizer"
    assert make_config(values).processor["tokenizer"]["type"] == "ChatGLM3Tokenizer"
    assert values["model"]["arch"]["type"] == "ChatGLM32kForConditionalGeneration"  # left alone
