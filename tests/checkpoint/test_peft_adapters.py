"""PEFT adapters: variants that change the numbers, targets of every form, bases that differ, tensors that are empty."""

import json
import re
import shutil

import numpy as np
import pytest
from conversions import TINY
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.load.peft import exact_targets, other_base, read_adapter_config
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.weights import expected_shapes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_qalora", True),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("bias", "all"),
        ("peft_type", "IA3"),
        ("rank_pattern", {"a": 2}),
        ("alpha_pattern", {"a": 2}),
        ("modules_to_save", ["output_layer"]),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["weight"]),
        *(
            ("init_lora_weights", start)
            for start in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", 5)
        ),
    ],
)
def test_variants_of_lora_that_change_numbers_are_refused(golden, tmp_path, key, value):
    shutil.copytree(golden / "hf_glm2_tiny/peft_lora", tmp_path / "a")
    path = tmp_path / "a/adapter_config.json"
    path.chmod(0o600)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=str(value) if key == "peft_type" else key):
        plan_job(tmp_path / "a", tmp_path / "x.ckpt", "mindformers")


def adapter_with(golden, folder, **changes):
    """The golden's adapter of query_key_value with some keys of its configuration changed."""
    shutil.copytree(golden / "hf_glm2_tiny/peft_lora", folder)
    path = folder / "adapter_config.json"
    path.chmod(0o600)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "True"])
def test_beginnings_that_leave_the_base_alone_are_accepted(golden, tmp_path, start):
    folder = adapter_with(golden, tmp_path / "a", init_lora_weights=start)
    assert read_adapter_config(folder)["target_modules"] == "query_key_value$"


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "^(transformer.encoder)(?!.*(lm_head|output|emb)).*(query_key_value)$"},
        {"target_modules": "(.*)*(.*)*(.*)*nothing"},
        {"target_modules": "all-linear"},
        {"target_modules": ["self_attention.query_key_value"]},
        {"layers_to_transform": [0, 1]},
        {"exclude_modules": ["output_layer"]},
    ],
)
def test_targets_that_are_no_plain_names_are_told_by_the_tensors(golden, tmp_path, changes):
    folder = adapter_with(golden, tmp_path / "a", **changes)
    pattern = read_adapter_config(folder)["target_modules"]
    layer = "transformer.encoder.layers.{}.self_attention.query_key_value"
    assert all(re.fullmatch(pattern, layer.format(number)) for number in (0, 1))
    assert not re.match(pattern, layer.format(2)) and not re.match(pattern, "query_key_value")


def test_a_full_path_as_target_adapts_these_layers_alone(golden, tmp_path):
    layers = ["transformer.output_layer", "transformer.encoder.layers.1.mlp.dense_4h_to_h"]
    pattern = exact_targets(layers)
    names = [name.removesuffix(".weight") for name in expected_shapes(TINY) if name.endswith(".weight")]
    assert sorted(name for name in names if re.fullmatch(pattern, name)) == sorted(layers)


@pytest.mark.parametrize(
    ("trained_on", "base", "warned"),
    [
        ("THUDM/chatglm3-6b", "THUDM/chatglm2-6b", True),
        ("/models/chatglm3/ZhipuAI/chatglm2-6b-32k", "glm2_6b", True),
        ("THUDM/codegeex2-6b", "THUDM/chatglm2-6b", True),
        ("THUDM/glm-4-9b-chat", "glm3_6b", True),
        ("THUDM/chatglm3-6b", "/data/ChatGLM3-6B-base", False),
        ("THUDM/chatglm3-6b", "my_base", False),
        (None, "glm2_6b", False),
    ],
)
def test_an_adapter_of_another_base_is_told(golden, tmp_path, trained_on, base, warned):
    folder = adapter_with(golden, tmp_path / "a", base_model_name_or_path=trained_on)
    warning = other_base(folder, base)
    assert bool(warning) == warned
    assert not warned or (trained_on in warning and base in warning and "\n" not in warning)


def test_empty_tensors_of_zero3_are_told(golden, tmp_path):
    folder = adapter_with(golden, tmp_path / "a")
    names = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").chmod(0o600)
    save_file({name: np.zeros((0,), np.float32) for name in names}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="zero_to_fp32.py"):
        plan_job(folder, tmp_path / "x.ckpt", "mindformers")


def test_tensors_of_another_variant_are_not_dropped(golden, tmp_path):
    folder = adapter_with(golden, tmp_path / "a")
    names = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").chmod(0o600)
    first = next(name for name in names if name.endswith("lora_A.weight"))
    vector = first.replace("lora_A.weight", "lora_magnitude_vector")
    save_file({**names, vector: np.ones(64, np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="lora_magnitude_vector"):
        plan_job(folder, tmp_path / "x.ckpt", "mindformers")
    embedding = "base_model.model.transformer.embedding.word_embeddings.weight"
    save_file({**names, embedding: np.ones((65024, 32), np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="modules_to_save"):
        plan_job(folder, tmp_path / "x.ckpt", "mindformers")


def test_an_adapter_named_by_its_file_keeps_its_configuration(golden, tmp_path):
    folder = adapter_with(golden, tmp_path / "a", init_lora_weights="pissa")
    with pytest.raises(CheckpointError, match="init_lora_weights"):
        plan_job(folder / "adapter_model.safetensors", tmp_path / "x.ckpt", "mindformers", lora_alpha=16)


@pytest.mark.parametrize("targets", [[["query_key_value"]], [{"a": 1}, "query_key_value"]])
def test_targets_that_are_no_names_are_read_from_the_tensors(golden, tmp_path, targets):
    shutil.copytree(golden / "hf_glm2_tiny/peft_lora", tmp_path / "a")
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))
    assert "query_key_value" in read_adapter_config(tmp_path / "a")["target_modules"]
