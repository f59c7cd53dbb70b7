"""Official int4 and int8 folders and GPTQ folders that we write: the bytes of the official code, and read back."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.convert import main
from mindformers_glm.errors import CheckpointError

LAYER = "transformer.encoder.layers.1.mlp.dense_4h_to_h"
QUANTISED = 4  # linear layers of a block


@pytest.fixture
def golden(shared):
    return shared / "golden/quantisation"


@pytest.mark.parametrize(
    ("form", "base", "same"), [("official-int4", "glm2", "glm2_int4"), ("official-int8", "glm3", "glm3_int8")]
)
def test_official_integers_are_those_of_the_official_code(golden, tmp_path, form, base, same):
    made = run_plan(plan_job(golden / "base" / base, tmp_path / "out", form))
    ours, theirs = read_weights(made), read_weights(golden / "official" / same)
    assert ours.packing == theirs.packing == form.replace("-", " ")
    for name in theirs.names:
        assert ours.read_bits(name).tobytes() == theirs.read_bits(name).tobytes(), name
    config = json.loads((made / "config.json").read_text())
    assert config["quantization_bit"] == int(form[-1]) and config["quantization_embeddings"] is False
    tensors = load_file(made / "model.safetensors")
    assert tensors[LAYER + ".weight"].dtype == np.int8 and tensors[LAYER + ".weight_scale"].dtype == np.float16
    assert sum(value.dtype == np.int8 for value in tensors.values()) == QUANTISED * config["num_layers"]


def test_gptq_is_read_back_within_half_a_step(golden, tmp_path):
    main(["--input_path", str(golden / "base/glm2"), "--output_path", str(tmp_path / "out"), "--to", "gptq"])
    ours, floats = read_weights(tmp_path / "out"), read_weights(golden / "base/glm2")
    assert ours.packing == "gptq int4" and set(ours.names) == set(floats.names)
    weight = convert_bits(floats.read_bits(LAYER + ".weight"), "float16", "float32")
    groups = weight.reshape(len(weight), -1, 128)
    step = 2 * np.abs(groups).max(axis=2, keepdims=True) / 15
    error = np.abs(ours.read_bits(LAYER + ".weight").reshape(groups.shape) - groups)
    assert (error <= step * 0.505).all()
    settings = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert settings == json.loads((tmp_path / "out/quantize_config.json").read_text())
    assert (settings["quant_method"], settings["bits"], settings["group_size"]) == ("gptq", 4, 128)
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert tensors[LAYER + ".qweight"].shape == (256 // 8, 128) and (tensors[LAYER + ".qzeros"] == 0x77777777).all()
    assert not [name for name in tensors if "output_layer" in name and "qweight" in name]


@pytest.mark.parametrize("form", ["official-int4", "official-int8", "gptq"])
def test_rows_of_zeros_stay_zeros_and_what_is_packed_is_packed_again(golden, tmp_path, form):
    tensors = load_file(golden / "base/glm2/model.safetensors")
    tensors[LAYER + ".weight"][3] = 0
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in/model.safetensors")
    (tmp_path / "in/config.json").write_bytes((golden / "base/glm2/config.json").read_bytes())
    first = run_plan(plan_job(tmp_path / "in", tmp_path / "first", form))
    once = read_weights(first).read_bits(LAYER + ".weight")
    assert not once[3].any() and np.isfinite(once).all()
    again = read_weights(run_plan(plan_job(first, tmp_path / "again", form))).read_bits(LAYER + ".weight")
    assert np.abs(again - once).max() <= np.abs(once).max() / 7


def test_numbers_that_float16_has_not_are_refused_and_nothing_is_left(golden, tmp_path):
    tensors = load_file(golden / "base/glm2/model.safetensors")
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    tensors[LAYER + ".weight"][0, 0] = 1e6
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in/model.safetensors")
    (tmp_path / "in/config.json").write_bytes((golden / "base/glm2/config.json").read_bytes())
    with pytest.raises(CheckpointError, match="too large for float16"):
        run_plan(plan_job(tmp_path / "in", tmp_path / "out", "official-int4"))
    assert not (tmp_path / "out").exists()
