"""Safetensors files, both ways against the safetensors package."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors, write_safetensors
from mindformers_glm.checkpoint.formats.tensor_file import give_back
from mindformers_glm.errors import CheckpointError

ARRAYS = {
    "z": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.array([0.5, -2], np.float16),
    "n": np.array(7, np.int64),
    "e": np.zeros((0, 3), np.float32),
    "b": np.array([True, False, True]),
}


def test_reads_what_the_package_writes(tmp_path):
    save_file(ARRAYS, tmp_path / "x.safetensors", metadata={"format": "np"})
    file = open_safetensors(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "np"}
    assert set(file.entries) == set(ARRAYS)
    for name, array in ARRAYS.items():
        got = file.read_bits(name)
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system tells nothing of its pages")
def test_mapped_pages_are_given_back_and_read_again(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(1 << 20, dtype=np.float32), "b": np.ones(3, np.float16)}, path)
    bits = open_safetensors(path).mapped_bits("a")
    total = bits.sum()
    assert resident(path) > 3 << 20
    give_back(bits[1 << 18 :])
    assert 0 < resident(path) < 2 << 20
    assert bits.sum() == total
    own = bits.copy()
    give_back(own)  # memory that is no file's stays as it is
    assert own.sum() == total


def resident(path: Path) -> int:
    """Bytes of a file that are in this process's memory."""
    found, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            is_ours = words[-1] == str(path)
        elif is_ours and words[0] == "Rss:":
            found += int(words[1]) * 1024
    return found


def test_the_package_reads_what_we_write(tmp_path):
    with open(tmp_path / "x.safetensors", "wb") as file:
        write_safetensors(file, [(name, array.dtype.name, array) for name, array in ARRAYS.items()], {"k": "v"})
    for name, array in load_file(tmp_path / "x.safetensors").items():
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_bfloat16_passes_as_bits(tmp_path):
    bits = np.array([0x3F80, 0xC000], np.uint16)
    with open(tmp_path / "x.safetensors", "wb") as file:
        write_safetensors(file, [("w", "bfloat16", bits)])
    table = open_safetensors(tmp_path / "x.safetensors")
    assert table.entries["w"].dtype == "bfloat16"
    np.testing.assert_array_equal(table.read_bits("w"), bits)


def raw(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "header"),
        (b"\x01\x00", "header"),
        (raw({}, length=1 << 60), "announces"),
        (raw(b"not json at all!"), "JSON"),
        (raw(b"[1, 2]"), "table"),
        (raw(b"[" * 5000), "JSON"),
        (raw(b'{"a": 1, "a": 2}'), "twice"),
        (raw({"w": F32}, b"1234567"), "outside"),
        (raw({"w": F32}, b"123456789"), "end at byte"),
        (raw({"w": {**F32, "shape": [3]}}, b"12345678"), "needs 12 bytes"),
        (raw({"w": {**F32, "shape": [1 << 62, 1 << 62]}}, b"12345678"), "impossible shape"),
        (raw({"w": {**F32, "shape": [-2]}}, b"12345678"), "impossible shape"),
        (raw({"w": {**F32, "data_offsets": [-8, 0]}}, b"12345678"), "outside"),
        (raw({"w": {**F32, "data_offsets": [8, 0]}}, b"12345678"), "outside"),
        (raw({"w": F32, "v": F32}, b"12345678"), "shares bytes"),
        (raw({"w": {"dtype": "F32"}}), "not complete"),
        (raw({"w": {**F32, "shape": ["2"]}}, b"12345678"), "whole numbers"),
        (raw({"w": {**F32, "dtype": "F8_E4M3"}}, b"12345678"), "F8_E4M3"),
        (raw({"w": {**F32, "dtype": ["F32"]}}, b"12345678"), "the type"),
        (raw({"w": {**F32, "shape": [True, 2]}}, b"12345678"), "whole numbers"),
        (raw({"w": {**F32, "shape": [1] * 5001}}, b"12345678"), "5,001 axes"),
        (raw({"w": {**F32, "shape": [int("9" * 4000)]}}, b"12345678"), "impossible shape"),
        (raw(b'{"w": {"dtype": "F32", "shape": [' + b"9" * 8000 + b'], "data_offsets": [0, 8]}}'), "JSON"),
        (raw({"n" * 2000: F32}, b"12345678"), "2,000 characters"),
        (raw({"__metadata__": {"a": 1}}), "metadata"),
    ],
)
def test_damaged_headers_are_refused_with_one_line(tmp_path, content, fault):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=fault) as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_shrinks_after_opening_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.zeros(1000, np.float32)}, path)
    table = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="middle of a tensor"):
        table.read_bits("w")
