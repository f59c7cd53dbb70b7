"""Models to talk to: by name, folder and YAML, with a LoRA that a run of this project or peft left behind."""

from __future__ import annotations

import numpy as np
import pytest
from random_yaml import random_glm3

from mindformers_glm.adapters.lora import DELTA, add_lora
from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.config.names import ASSETS, CONFIGS_DIR
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.models.build import build_model
from mindformers_glm.serving.loading import load
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer

TINY = ASSETS / "glm2_tiny"
PET = {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 8, "target_modules": ".*query_key_value*"}
has_weights = pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason="glm2_tiny's weights are missing")


def tokens(loaded) -> list[int]:
    ids = loaded.tokenizer.encode("你好")
    return loaded.engine.submit(ids, GenerationConfig(max_new_tokens=6)).results()[0].ids


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA over glm2_tiny that changes every layer: as our runs keep it, alone, and as peft keeps it."""
    folder = tmp_path_factory.mktemp("adapter")
    model = add_lora(build_model(read_config(TINY / "config.yaml")[0]), PET)
    random = np.random.default_rng(0)
    arrays = {
        parameter.name: random.normal(0, 0.3, parameter.shape).astype(np.float32)
        for parameter in model.get_parameters()
        if DELTA in parameter.name
    }
    save_ckpt(folder / "lora.ckpt", arrays)
    job = plan_job(folder / "lora.ckpt", folder / "peft", "peft", config=TINY / "config.yaml", lora_alpha=8)
    run_plan(job)
    return folder


@pytest.mark.slow
@has_weights
def test_a_name_a_folder_and_a_file_are_the_same_model():
    named = load("glm2_tiny")
    assert isinstance(named.tokenizer, ChatGLM2Tokenizer)
    expected = tokens(named)
    for place in (TINY, TINY / "model.safetensors", CONFIGS_DIR / "tiny" / "run_glm2_tiny.yaml"):
        assert tokens(load(str(place))) == expected
    assert load("glm2_tiny", seq_length=64).engine.max_length == 64


@pytest.mark.slow
@has_weights
def test_an_adapter_by_path(adapter):
    plain = tokens(load("glm2_tiny"))
    by_peft = tokens(load("glm2_tiny", adapter=str(adapter / "peft")))
    by_file = tokens(load("glm2_tiny", adapter=str(adapter / "lora.ckpt"), lora_alpha=8))
    by_yaml = tokens(
        load(str(CONFIGS_DIR / "tiny" / "run_glm2_tiny.yaml"), adapter=str(adapter / "peft"), seq_length=512)
    )
    assert by_peft == by_file == by_yaml != plain
    with pytest.raises(CheckpointError, match="--lora_alpha"):
        load("glm2_tiny", adapter=str(adapter / "lora.ckpt"))


def test_a_yaml_with_random_weights(tmp_path):
    yaml = str(random_glm3(tmp_path))
    loaded = load(yaml, seq_length=128)
    assert isinstance(loaded.tokenizer, ChatGLM3Tokenizer)
    assert loaded.engine.max_length == 128
    assert len(tokens(loaded)) == 6
    assert tokens(load(yaml)) == tokens(loaded)  # random weights, but always the same


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'glm2_tiny'"):
        load("glm2_tinny")
    with pytest.raises(ConfigError, match="no such file"):
        load(str(tmp_path / "none.yaml"))
