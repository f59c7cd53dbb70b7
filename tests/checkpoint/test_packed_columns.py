"""GPTQ and AWQ folders: floats bit for bit, logits, packings that are refused, shapes and groups that lie."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.checkpoint.load.filling import float_rows
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError

FOLDERS = ("gptq/glm2_g32", "gptq/glm2_g32_asym", "gptq/glm2_g128_desc_act", "awq/glm3_g32")
LAYER = "transformer.encoder.layers.0.mlp.dense_h_to_4h"


@pytest.fixture
def golden(shared):
    return shared / "golden/quantisation"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_floats_are_those_of_the_libraries(golden, name):
    source, expected = read_weights(golden / name), np.load(golden / name / "expected.npz")
    assert source.packing == f"{name.partition('/')[0]} int4" and source.kind == "weights" and not source.unknown
    wanted = [key for key in expected.files if key.startswith("deq|")]
    assert len(wanted) == 4
    for key in wanted:
        weight = key[4:] + ".weight"
        assert source.dtype(weight) == "float32" and source.read_bits(weight).tobytes() == expected[key].tobytes()
        rows = np.concatenate(list(source.blocks(weight, 3, 17, block_bytes=2048)))
        assert rows.tobytes() == expected[key][3:17].tobytes()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_layer_is_read_once_however_few_rows_are_asked_for(golden, name, monkeypatch):
    source, read = read_weights(golden / name), []
    real = TensorFile.read_bits
    monkeypatch.setattr(TensorFile, "read_bits", lambda self, one: read.append(one) or real(self, one))
    weight = next(name for name in source.names if name.endswith("dense_h_to_4h.weight"))
    whole = np.concatenate([float_rows(source, weight, at, at + 8) for at in range(0, source.shape(weight)[0], 8)])
    assert len(read) == len(set(read)) and any(name.endswith(".qweight") for name in read)
    assert whole.tobytes() == source.read_bits(weight).tobytes()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_layer_that_has_been_read_takes_no_memory(golden, name, monkeypatch):
    source, read = read_weights(golden / name), []
    real = TensorFile.read_bits

    def noted(file, one):
        found = real(file, one)
        read.append(weakref.ref(found))
        return found

    monkeypatch.setattr(TensorFile, "read_bits", noted)
    weight = next(name for name in source.names if name.endswith("dense_h_to_4h.weight"))
    rows = source.shape(weight)[0]
    float_rows(source, weight, 0, rows // 2)
    assert any(one() is not None for one in read)
    float_rows(source, weight, rows // 2, rows)
    gc.collect()
    assert not any(one() is not None for one in read)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_logits_are_the_official_ones(golden, name):
    from tiny_networks import logits_of  # noqa: PLC0415 - the other tests need no MindSpore

    from mindformers_glm import AutoModel  # noqa: PLC0415

    expected = np.load(golden / name / "expected.npz")
    model = AutoModel.from_pretrained(golden / name, compute_dtype="float32", param_init_type="float32")
    ids = expected["ids_1"].reshape(1, -1)
    got = logits_of(model, ids).reshape(ids.size, -1)
    assert np.abs(got - expected["logits_1"]).max() < 2e-4


def copied(golden, name, target, change):
    """A golden folder whose tensors went through `change`."""
    shutil.copy(golden / name / "config.json", target)
    tensors = load_file(golden / name / "model.safetensors")
    save_file(change(tensors) or tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("bits", [2, 8])
def test_other_widths(tmp_path, bits):
    rng, columns, rows, group = np.random.default_rng(bits), 64, 32, 16
    q, zero = (rng.integers(0, 1 << bits, shape) for shape in ((columns, rows), (columns // group, rows)))
    scales = rng.standard_normal((columns // group, rows)).astype(np.float16)
    per = 32 // bits

    def packed(numbers):  # (A, B) -> (A / per, B), lowest bits first
        words = numbers.reshape(-1, per, numbers.shape[1]).astype(np.uint64)
        return (
            (words << (np.arange(per, dtype=np.uint64) * bits)[None, :, None]).sum(1).astype(np.uint32).view(np.int32)
        )

    stored = (zero - 1) & ((1 << bits) - 1)  # a zero of 0 wraps
    tensors = {".qweight": packed(q), ".qzeros": packed(stored.T).T.copy(), ".scales": scales}
    save_file({LAYER + part: value for part, value in tensors.items()}, tmp_path / "model.safetensors")
    source = read_weights(tmp_path)
    groups = np.arange(columns) // group
    assert source.packing == f"gptq int{bits}"
    wanted = (scales.astype(np.float32)[groups] * (q - zero[groups])).T
    assert np.array_equal(source.read_bits(LAYER + ".weight"), wanted)


def test_the_later_form_keeps_the_zero_itself(golden, tmp_path):
    def later(tensors):
        for name in tensors:
            if name.endswith(".qzeros"):
                numbers = tensors[name].view(np.uint32)
                tensors[name] = (numbers + np.uint32(0x11111111)).view(np.int32)

    folder = copied(golden, "gptq/glm2_g32", tmp_path, later)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    (folder / "config.json").write_text(json.dumps(config))
    first = read_weights(golden / "gptq/glm2_g32").read_bits(LAYER + ".weight")
    assert read_weights(folder).read_bits(LAYER + ".weight").tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
    ],
)
def test_other_packings_are_refused_by_name(golden, tmp_path, settings, name):
    folder = copied(golden, "gptq/glm2_g32", tmp_path, lambda tensors: None)
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings}))
    with pytest.raises(CheckpointError, match=name):
        read_weights(folder)


@pytest.mark.parametrize("mark", [".weight.absmax", ".weight.quant_state.bitsandbytes__nf4", ".SCB"])
def test_bitsandbytes_is_known_by_its_tensors(tmp_path, mark):
    tensors = {LAYER + ".weight": np.zeros((8, 1), np.uint8), LAYER + mark: np.ones(8, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="bitsandbytes"):
        read_weights(tmp_path)


def change(part, made):
    def changed(tensors):
        tensors[LAYER + part] = made(tensors[LAYER + part])

    return changed


HOSTILE = {
    "no zeros": (lambda t: {k: v for k, v in t.items() if k != LAYER + ".qzeros"}, "has no .qzeros"),
    "fewer words": (change(".qweight", lambda v: v[:-1].copy()), "g_idx"),
    "another type": (change(".qweight", lambda v: v.astype(np.int64)), "int64"),
    "groups of other sizes": (change(".scales", lambda v: v[:-1].copy()), "scales"),
    "one axis": (change(".scales", lambda v: v.reshape(-1)), "scales"),
    "short index": (change(".g_idx", lambda v: v[:-1].copy()), "g_idx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_parts_that_do_not_fit_are_refused_in_one_line(golden, tmp_path, name):
    made, message = HOSTILE[name]
    folder = copied(golden, "gptq/glm2_g32", tmp_path, made)
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [-1, 4, 2**31 - 1])
def test_a_group_that_is_not_there_is_refused(golden, tmp_path, number):
    folder = copied(golden, "gptq/glm2_g32", tmp_path, change(".g_idx", lambda v: np.full_like(v, number)))
    with pytest.raises(CheckpointError, match="names group"):
        read_weights(folder).read_bits(LAYER + ".weight")
