"""Configurations of GLM-4 as MindFormers 1.3 to 2.1 ships them: each loads unchanged; a folder that says everything."""

from __future__ import annotations

import json
import shutil

import forked
import pytest
import yaml

from mindformers_glm.config import load_config
from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.registry import CONFIGS

NAMES = [
    *(f"{version}/{name}" for version in ("r1.3.0", "r1.5.0") for name in ("finetune_glm4_9b", "predict_glm4_9b_chat")),
    *(f"2.1.0/{name}" for name in ("finetune_glm4_9b", "predict_glm4_9b_chat", "predict_glm4")),
    *(f"{version}/predict_glm4_9b_chat_800I_A2" for version in ("r1.5.0", "2.1.0")),
]


def nested(flat):
    values: dict = {}
    for key, value in flat.items():
        below, (*above, leaf) = values, key.split(".")
        for part in above:
            below = below.setdefault(part, {})
        below[leaf] = value
    return with_lists(values)


def with_lists(value):
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [with_lists(value[key]) for key in sorted(value, key=int)]
    return {key: with_lists(item) for key, item in value.items()}


@pytest.fixture
def file(golden, tmp_path):
    files = json.loads((golden / "glm4/mindformers/yaml_keys.json").read_text())["files"]

    def make(name, **changes):
        path = tmp_path / f"{name.replace('/', '_')}.yaml"
        path.write_text(yaml.safe_dump({**nested(files[f"{name}.yaml"]), **changes}, sort_keys=False))
        return path

    return make


@pytest.fixture
def model(golden, shared, tmp_path):
    """A small GLM-4-0414 as it is downloaded, with a vocabulary of its size."""
    folder = tmp_path / "GLM-4-9B-0414"
    shutil.copytree(golden / "glm4/glm4_9b_0414", folder, ignore=shutil.ignore_patterns("*.npz", "yarn", "peft*"))
    ranks = (shared / "data/tokenizer/glm-4-9b/tokenizer.model").read_bytes().splitlines(keepends=True)
    (folder / "tokenizer.model").write_bytes(b"".join(ranks[:600]))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_published_file_loads_unchanged(file, name):
    """Some leave the place of the weights to the command line."""
    path = file(name)
    words = [] if load_is_named(path) else ["load_checkpoint=/path/to/glm4"]
    config = load_config(path, words)
    if name.endswith("predict_glm4"):
        return
    built = CONFIGS.build(dict(config.model.config), "model.model_config")
    assert (built.num_layers, built.padded_vocab_size, built.num_kv_heads) == (40, 151552, 2)
    assert built.rope_ratio == (500 if "chat" in name else 1)


def load_is_named(path):
    values = yaml.safe_load(path.read_text())
    return bool(values.get("load_checkpoint") or values.get("pretrained_model_dir"))


def test_a_folder_says_network_weights_and_tokenizer(file, model):
    config = load_config(file("2.1.0/predict_glm4"), [f"pretrained_model_dir={model}"])
    built = CONFIGS.build(dict(config.model.config), "model.model_config")
    assert (built.num_layers, built.kv_channels, built.padded_vocab_size) == (3, 32, 640)
    assert built.post_mlp_layernorm and built.add_qkv_bias and built.eos_token_id == [600, 607, 609]
    assert (built.compute_dtype, built.param_init_type, built.rotary_dtype) == ("bfloat16", "bfloat16", "bfloat16")
    assert config.initial_weights == str(model)
    tokenizer = config.processor["tokenizer"]
    assert (tokenizer["type"], tokenizer["chat_format"]) == ("ChatGLM4Tokenizer", "glm4_0414")
    assert config.parallel.parallel_mode == 1
    again = load_config(config.dump(model.parent / "resolved.yaml"))
    assert again.model.config == config.model.config and again.initial_weights == config.initial_weights


def test_what_the_file_says_itself_wins(file, model):
    told = ["model.model_config.seq_length=64", "model.model_config.params_dtype=float32", "load_checkpoint=other.ckpt"]
    config = load_config(file("2.1.0/predict_glm4"), [f"pretrained_model_dir={model}", *told])
    assert (config.model.config["seq_length"], config.model.config["param_init_type"]) == (64, "float32")
    assert config.initial_weights == "other.ckpt"


def test_a_folder_of_another_model_is_refused(file, model, tmp_path):
    given = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**given, "model_type": "llama"}))
    with pytest.raises((ConfigError, ConfigErrors), match="model_type"):
        load_config(file("2.1.0/predict_glm4"), [f"pretrained_model_dir={model}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="There is no config.json"):
        load_config(file("2.1.0/predict_glm4"), [f"pretrained_model_dir={tmp_path / 'empty'}"])


def test_the_documented_command_predicts(file, model, root, tmp_path):
    pytest.importorskip("tiktoken")
    command = [root / "run_mindformer.py", "--config", file("2.1.0/predict_glm4"), "--run_mode", "predict"]
    command += ["--use_parallel", "False", "--predict_data", "你好", "--device_target", "CPU"]
    exact = ["--model.model_config.compute_dtype", "float32", "--model.model_config.max_new_tokens", "4"]
    done = forked.run([*command, "--pretrained_model_dir", model, *exact], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "你好" in (tmp_path / "text_generation_result.txt").read_text()
    done = forked.run([*command, "--pretrained_model_dir", tmp_path / "nowhere", *exact], cwd=tmp_path)
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
