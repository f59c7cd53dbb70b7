"""Adapters over the official tiny ChatGLM2, in every form that users have."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.names import PREFIX_NAME
from mindformers_glm.checkpoint.load.source import read_weights

PREFIX_LENGTH = 3


@pytest.fixture(scope="session")
def base(golden):
    return golden / "hf_glm2_tiny"


@pytest.fixture(scope="session")
def adapters(base, tmp_path_factory):
    """`peft`, `lora.ckpt`, `prefix.ckpt`, and `ptuning`: a folder as the official P-Tuning v2 script leaves it."""
    folder = tmp_path_factory.mktemp("adapters")
    shutil.copytree(base / "peft_lora", folder / "peft")
    lora = read_weights(folder / "peft")
    save_ckpt(folder / "lora.ckpt", {name: lora.read(name).astype(np.float32) for name in lora.names})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    width = config["num_layers"] * config["kv_channels"] * config["multi_query_group_num"] * 2
    table = np.random.default_rng(0).normal(size=(PREFIX_LENGTH, width)).astype(np.float32)
    save_ckpt(folder / "prefix.ckpt", {PREFIX_NAME: table})
    (folder / "ptuning").mkdir()
    save_file({"transformer.prefix_encoder.embedding.weight": table}, folder / "ptuning/model.safetensors")
    config.update(pre_seq_len=PREFIX_LENGTH, prefix_projection=False)
    (folder / "ptuning/config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_file(folder / "ptuning/model.safetensors")
    return folder
