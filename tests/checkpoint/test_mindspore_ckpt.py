"""MindSpore .ckpt files on the wire, both ways against MindSpore."""

import mindspore as ms
import numpy as np
import pytest

from mindformers_glm.checkpoint.formats import mindspore_ckpt
from mindformers_glm.checkpoint.formats.dtypes import bfloat16, typed
from mindformers_glm.checkpoint.formats.mindspore_ckpt import crc_of, open_ckpt, save_ckpt, value_head
from mindformers_glm.errors import CheckpointError

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([0.5, -2, 65504], np.float16),
    "brain": np.array([[1, 2.5, -3]], np.float32).astype(bfloat16()),
    "count": np.array([8], np.int32),
    "flag": np.array([True, False]),
}


def read_all(path) -> dict[str, np.ndarray]:
    file = open_ckpt(path)
    return {name: typed(file.read_bits(name), entry.dtype) for name, entry in file.entries.items()}


def assert_same(left: dict, right: dict) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


def test_every_golden_reads_as_mindspore_reads_it(golden):
    files = [path for path in golden.glob("mindformers_r08/**/*.ckpt") if "strategy" not in path.name]
    assert len(files) > 20
    for path in files:
        theirs = {name: value.asnumpy() for name, value in ms.load_checkpoint(str(path)).items()}
        assert_same(read_all(path), theirs)


def test_mindspore_reads_what_we_write(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", {**ARRAYS, "epoch_num": 3, "scale": 2.5}, {"note": "héllo 你好"})
    theirs = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert theirs.pop("note") == "héllo 你好"
    assert theirs.pop("epoch_num").asnumpy() == 3
    assert theirs.pop("scale").asnumpy() == 2.5
    assert_same(ARRAYS, {name: value.asnumpy() for name, value in theirs.items()})
    file = open_ckpt(tmp_path / "x.ckpt")
    assert file.metadata == {"note": "héllo 你好"}
    assert file.entries["epoch_num"].shape == ()


def test_we_write_what_mindspore_writes(tmp_path):
    rows = [{"name": name, "data": ms.Tensor(array)} for name, array in ARRAYS.items()]
    ms.save_checkpoint(rows, str(tmp_path / "theirs.ckpt"))
    save_ckpt(tmp_path / "ours.ckpt", ARRAYS)
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()


@pytest.mark.parametrize("limit", [64, 100, 257])
def test_large_tensors_are_cut_and_joined(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(mindspore_ckpt, "SLICE_BYTES", limit)
    arrays = {"a": np.arange(7 * 11, dtype=np.float32).reshape(7, 11), "b": np.arange(5, dtype=np.int64)}
    save_ckpt(tmp_path / "x.ckpt", arrays)
    assert len(open_ckpt(tmp_path / "x.ckpt").entries["a"].spans) > 1
    assert_same(read_all(tmp_path / "x.ckpt"), arrays)
    assert_same(arrays, {n: v.asnumpy() for n, v in ms.load_checkpoint(str(tmp_path / "x.ckpt")).items()})


def test_the_checksum_of_mindspore_is_found_and_left_out(tmp_path):
    path = tmp_path / "x.ckpt"
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor(ARRAYS["w"])}], str(path), crc_check=True)
    assert crc_of(path) is not None
    assert_same(read_all(path), {"w": ARRAYS["w"]})
    save_ckpt(tmp_path / "y.ckpt", ARRAYS)
    assert crc_of(tmp_path / "y.ckpt") is None


def test_encrypted_files_are_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor(ARRAYS["w"])}], str(path), enc_key=b"0123456789ABCDEF")
    with pytest.raises(CheckpointError, match="encrypted.*dec_key"):
        open_ckpt(path)


def test_every_cut_is_noticed(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", {"a": ARRAYS["w"], "b": ARRAYS["half"]})
    data = (tmp_path / "x.ckpt").read_bytes()
    first = data.index(b"\x0a\x01b") - 2  # where the second value begins: what is before it is a whole file
    for size in range(len(data)):
        (tmp_path / "cut.ckpt").write_bytes(data[:size])
        if size == first:
            continue
        with pytest.raises(CheckpointError):
            open_ckpt(tmp_path / "cut.ckpt")


def test_random_bytes_never_crash_the_reader(tmp_path):
    random = np.random.default_rng(0)
    save_ckpt(tmp_path / "x.ckpt", ARRAYS, {"note": "text"})
    data = np.frombuffer((tmp_path / "x.ckpt").read_bytes(), np.uint8)
    for _ in range(300):
        changed = data.copy()
        changed[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        (tmp_path / "bad.ckpt").write_bytes(changed.tobytes())
        try:
            read_all(tmp_path / "bad.ckpt")
        except CheckpointError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match="x.ckpt"):
        open_ckpt(tmp_path / "x.ckpt")


def test_unknown_types_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="complex64"):
        save_ckpt(tmp_path / "x.ckpt", {"c": np.zeros(2, np.complex64)})
    assert not (tmp_path / "x.ckpt").exists()


@pytest.mark.parametrize(
    ("second", "word"),
    [
        (("w", [2], "Evil"), "the type 'Evil'"),
        (("w", [2], "Int32"), "differ in shape or type"),
        (("w", [1] * 40, "Float32"), "32 axes"),
        (("n" * 5000, [2], "Float32"), "a name of 5,000 bytes"),
        (("w2", [1 << 62, 1 << 62], "Float32"), "impossible shape"),
    ],
)
def test_a_part_that_does_not_fit_is_named(tmp_path, second, word):
    path = tmp_path / "x.ckpt"
    save_ckpt(path, {"w": np.ones(2, np.float32)})
    name, dims, dtype = second
    with open(path, "ab") as file:
        file.write(value_head(name, dims, dtype, 8) + bytes(8))
    with pytest.raises(CheckpointError, match=word):
        open_ckpt(path)


def test_a_text_and_a_tensor_of_one_name(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", {}, {"w": "text"})
    with open(tmp_path / "x.ckpt", "ab") as file:
        file.write(value_head("w", [2], "Float32", 8) + bytes(8))
    assert open_ckpt(tmp_path / "x.ckpt").entries["w"].shape == (2,)
