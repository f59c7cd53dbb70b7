"""Official int4 and int8 folders: their floats bit for bit, their logits, and what is refused."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError

FOLDERS = {"glm2_int4": 4, "glm3_int8": 8, "glm2_tiny_int4": 4}


@pytest.fixture
def official(shared):
    return shared / "golden/quantisation/official"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_floats_are_those_of_the_official_kernel(official, name):
    source, expected = read_weights(official / name), np.load(official / name / "expected.npz")
    assert source.official_bits == FOLDERS[name] and source.kind == "weights" and not source.unknown
    wanted = {key.partition("|")[2]: expected[key] for key in expected.files if key.startswith("deq16|")}
    assert wanted
    for weight, half in wanted.items():
        weight = weight if weight.endswith(".weight") else weight + ".weight"
        assert source.dtype(weight) == "float32" and source.shape(weight) == half.shape
        assert convert_bits(source.read_bits(weight), "float32", "float16").tobytes() == half.tobytes(), weight
        rows = np.concatenate(list(source.blocks(weight, 2, 5)))
        assert rows.tobytes() == source.read_bits(weight)[2:5].tobytes()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_logits_are_the_official_ones(official, name):
    from tiny_networks import logits_of  # noqa: PLC0415 - the other tests need no MindSpore

    from mindformers_glm import AutoModel  # noqa: PLC0415

    expected = np.load(official / name / "expected.npz")
    model = AutoModel.from_pretrained(official / name, compute_dtype="float32", param_init_type="float32")
    for number in range(2):
        ids, wanted = expected[f"ids_{number}"].reshape(1, -1), expected[f"logits_{number}"]
        got = logits_of(model, ids).reshape(ids.size, -1)
        assert np.abs(got[-len(wanted) :] - wanted if wanted.ndim > 1 else got[-1] - wanted).max() < 2e-4


def test_a_conversion_writes_floats(official, tmp_path):
    made = run_plan(plan_job(official / "glm2_int4", tmp_path / "hf", "hf", dtype="fp16"))
    back, source = read_weights(made), read_weights(official / "glm2_int4")
    for name in source.names:
        half = convert_bits(source.read_bits(name), source.dtype(name), "float16")
        assert back.dtype(name) == "float16" and back.read_bits(name).tobytes() == half.tobytes()
    assert back.official_bits == 0


def test_without_configuration_it_is_told_what_they_are(official, tmp_path):
    shutil.copy(official / "glm2_int4/pytorch_model.bin", tmp_path)
    with pytest.raises(CheckpointError, match="official int4 weights.*--config"):
        plan_job(tmp_path, tmp_path / "x.ckpt", "mindformers")


def test_integers_of_another_packing_are_refused(tmp_path):
    weight = "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"
    arrays = {weight: np.zeros((4, 5), np.int8), weight + "_scale": np.ones(4, np.float16)}
    save_file(
        {**arrays, "transformer.embedding.word_embeddings.weight": np.ones((9, 32), np.float16)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match="packing is not known"):
        read_weights(tmp_path)
