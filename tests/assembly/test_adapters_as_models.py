"""An adapter alone is no model: on no road do random weights stand in for its base."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from tiny_networks import logits_of

from mindformers_glm import AutoModel
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.run import build_network, load_weights
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.console import main
from mindformers_glm.config import load_config
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.build import build_model
from mindformers_glm.models.initial import unfilled
from mindformers_glm.serving.loading import load

FORMS = ["peft", "lora.ckpt", "prefix.ckpt", "ptuning"]
FLOAT = {"param_init_type": "float32", "compute_dtype": "float32"}
SHAPE = {
    "num_layers": 2, "padded_vocab_size": 65024, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8,
    "num_attention_heads": 4, "multi_query_group_num": 2, "seq_length": 512,
}  # fmt: skip
LORA = {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 32, "target_modules": ".*query_key_value*"}
PREFIX = {"pet_type": "ptuning2", "pre_seq_len": 3}


def logits(model) -> np.ndarray:
    return logits_of(model, [[64790, 64792, 5, 9]])


def run_config(root, form, mode, base=None, *, start):
    pet = PREFIX if form in ("prefix.ckpt", "ptuning") else LORA
    model = {"model_config": {**SHAPE, **FLOAT, "pet_config": pet, "checkpoint_name_or_path": str(base or "")}}
    config = load_config(root / "configs/tiny/run_glm2_tiny_finetune.yaml", {"model": model, "run_mode": "predict"})
    return config.model_copy(update={"run_mode": mode, "load_checkpoint": str(start)})


@pytest.mark.parametrize("form", FORMS)
def test_auto_model_and_chat_refuse_it(adapters, form):
    for road in (AutoModel.from_pretrained, lambda path: load(str(path))):
        with pytest.raises(CheckpointError, match="it holds an adapter and no network") as caught:
            road(adapters / form)
        assert "Name the base model" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["predict", "eval", "finetune", "export"])
def test_every_run_mode_refuses_it(root, adapters, form, mode):
    config = run_config(root, form, mode, start=adapters / form)
    with pytest.raises(CheckpointError, match="it holds an adapter and no network"):
        load_weights(None, config)


@pytest.mark.parametrize("form", FORMS)
def test_a_base_that_the_configuration_names_is_loaded_first(root, base, adapters, form):
    config = run_config(root, form, "predict", base, start=adapters / form)
    network = build_network(config, training=False)
    load_weights(network, config)
    on_top = AutoModel.from_pretrained(base, adapter=adapters / form, lora_alpha=32, **FLOAT)
    np.testing.assert_array_equal(logits(network), logits(on_top))
    assert not np.array_equal(logits(network), logits(AutoModel.from_pretrained(base, **FLOAT)))


def test_a_base_that_does_not_fit_is_named(root, adapters):
    config = run_config(root, "peft", "predict", "glm2_tiny", start=adapters / "peft")
    with pytest.raises(CheckpointError, match=r"glm2_tiny.*wrong shape"):
        load_weights(build_network(config, training=False), config)
    config = run_config(root, "peft", "predict", "missing.ckpt", start=adapters / "peft")
    with pytest.raises(CheckpointError, match="adapter and no network, and its base missing.ckpt cannot be read"):
        load_weights(build_network(config, training=False), config)


def test_the_network_itself_refuses_it(adapters, base):
    from mindformers_glm import AutoConfig

    with unfilled():
        model = build_model(AutoConfig.from_pretrained(base, pet_config=LORA))
    with pytest.raises(CheckpointError, match="it holds an adapter and no network"):
        load_into(model, read_weights(adapters / "peft"), partial=True)


@pytest.mark.parametrize("form", FORMS)
def test_quantising_refuses_it_and_writes_nothing(adapters, form, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["quantize", "--checkpoint", str(adapters / form), "--output_path", str(out), "--group_size", "16"]
    assert main(words) == 2
    assert "it holds an adapter and no network" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_on_top_of_its_base(base, adapters, form):
    with_adapter = AutoModel.from_pretrained(base, adapter=adapters / form, lora_alpha=32, **FLOAT)
    assert not np.array_equal(logits(with_adapter), logits(AutoModel.from_pretrained(base, **FLOAT)))
    if form == "lora.ckpt":
        by_peft = AutoModel.from_pretrained(base, adapter=adapters / "peft", **FLOAT)
        np.testing.assert_array_equal(logits(with_adapter), logits(by_peft))
        with pytest.raises(CheckpointError, match="alpha"):
            AutoModel.from_pretrained(base, adapter=adapters / form)
    if form == "ptuning":
        by_file = AutoModel.from_pretrained(base, adapter=adapters / "prefix.ckpt", **FLOAT)
        np.testing.assert_array_equal(logits(with_adapter), logits(by_file))


def test_a_base_given_as_adapter(base, adapters):
    with pytest.raises(CheckpointError, match="it holds no adapter"):
        AutoModel.from_pretrained(base, adapter=base)
    with pytest.raises(CheckpointError, match="it holds an adapter and no network"):
        AutoModel.from_pretrained(adapters / "peft", adapter=adapters / "peft")


def test_a_prefix_is_not_advised_to_be_merged(base, adapters):
    model = AutoModel.from_pretrained(base, **FLOAT)
    with pytest.raises(CheckpointError, match="pre_seq_len") as caught:
        load_into(model, read_weights(adapters / "prefix.ckpt"))
    assert "merge" not in str(caught.value)


def test_a_base_on_this_machine_is_taken_by_its_public_name_and_never_by_a_path(base, adapters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "checkpoint_download/glm2/glm2_6b", ignore=shutil.ignore_patterns("bin", "peft_lora"))
    parts = parts_of(adapters / "peft")  # it was trained on THUDM/chatglm2-6b
    assert str(parts.base.weights) == "checkpoint_download/glm2/glm2_6b"
    expected = AutoModel.from_pretrained(base, adapter=adapters / "peft", **FLOAT)
    np.testing.assert_array_equal(logits(AutoModel.from_pretrained(adapters / "peft", **FLOAT)), logits(expected))
    shutil.copytree(adapters / "peft", "other")
    told = json.loads((tmp_path / "other/adapter_config.json").read_text(encoding="utf-8"))
    told["base_model_name_or_path"] = str(base)
    (tmp_path / "other/adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"it was trained on {base}"):
        parts_of(tmp_path / "other")
