"""PyTorch .bin files without PyTorch, and what a hostile one may not do."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pickled
import pytest

from mindformers_glm.checkpoint.formats import pickle_machine
from mindformers_glm.checkpoint.formats.pickle_machine import PickleMachine, Refused
from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors
from mindformers_glm.checkpoint.formats.torch_bin import open_torch_bin
from mindformers_glm.errors import CheckpointError

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "h": np.array([1.5, -2], np.float16),
    "n": np.array(7, np.int64),
}


def assert_reads(path, arrays) -> None:
    file = open_torch_bin(path)
    assert list(file.entries) == list(arrays)
    for name, array in arrays.items():
        got = file.read_bits(name)
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


def test_the_golden_shards_hold_the_golden_numbers(golden):
    folder = golden / "hf_glm2_tiny"
    wanted = open_safetensors(folder / "model.safetensors")
    seen = set()
    for path in sorted((folder / "bin").glob("*.bin")):
        shard = open_torch_bin(path)
        for name, entry in shard.entries.items():
            assert entry.dtype == wanted.entries[name].dtype
            np.testing.assert_array_equal(shard.read_bits(name), wanted.read_bits(name))
            seen.add(name)
    assert seen == set(wanted.entries)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_zip_form(tmp_path, protocol):
    assert_reads(pickled.save(tmp_path / "x.bin", ARRAYS, protocol), ARRAYS)


def test_the_older_single_stream(tmp_path):
    assert_reads(pickled.save_legacy(tmp_path / "x.bin", ARRAYS), ARRAYS)


def test_bfloat16_keeps_its_bits(tmp_path):
    bits = np.array([0x3F80, 0xC000, 1], np.uint16)
    table = pickled.dumps({"w": pickled.tensor("0", bits, "BFloat16Storage")})
    file = open_torch_bin(pickled.zip_file(tmp_path / "x.bin", table, {"0": bits.tobytes()}))
    assert file.entries["w"].dtype == "bfloat16"
    np.testing.assert_array_equal(file.read_bits("w"), bits)


def test_views_of_one_storage(tmp_path):
    data = np.arange(20, dtype=np.float32)
    storage = pickled.Stored("FloatStorage", "0", 20)
    table = {
        "rows": pickled.Tensor(storage, 4, (2, 3), (3, 1)),
        "transposed": pickled.Tensor(storage, 0, (4, 5), (1, 4)),
        "stepped": pickled.Tensor(storage, 1, (5,), (4,)),
    }
    file = open_torch_bin(pickled.zip_file(tmp_path / "x.bin", pickled.dumps(table), {"0": data.tobytes()}))
    np.testing.assert_array_equal(file.read_bits("rows"), data[4:10].reshape(2, 3))
    np.testing.assert_array_equal(file.read_bits("transposed"), data.reshape(5, 4).T)
    np.testing.assert_array_equal(file.read_bits("stepped"), data[1::4])


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_a_training_checkpoint_with_the_weights_inside(tmp_path, key):
    table = {"epoch": 3, key: {"w": pickled.tensor("0", ARRAYS["w"])}, "args": {"lr": 0.1}}
    assert_reads(
        pickled.zip_file(tmp_path / "x.pt", pickled.dumps(table), {"0": ARRAYS["w"].tobytes()}), {"w": ARRAYS["w"]}
    )


HOSTILE = {
    "os.system": pickled.Call("os", "system", "touch OWNED"),
    "posix.system": pickled.Call("posix", "system", "touch OWNED"),
    "builtins.eval": pickled.Call("builtins", "eval", "open('OWNED', 'w')"),
    "builtins.getattr": pickled.Call("builtins", "getattr", pickled.Call("builtins", "__import__", "os"), "system"),
    "builtins.__import__": pickled.Call("builtins", "__import__", "os"),
    "torch.hub.load": pickled.Call("torch.hub", "load", "evil/repo", "model"),
    "torch.storage._load_from_bytes": pickled.Call("torch.storage", "_load_from_bytes", b"x"),
    "torch.load": pickled.Call("torch", "load", "x"),
    "subprocess.Popen": pickled.Call("subprocess", "Popen", ["touch", "OWNED"]),
    "numpy.core.multiarray.scalar": pickled.Call("numpy.core.multiarray", "scalar", 1),
    "collections.deque": pickled.Call("collections", "deque", []),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_foreign_names_are_refused_by_name(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    os_system = os.system
    path = pickled.zip_file(tmp_path / "x.bin", pickled.dumps({"w": HOSTILE[name]}, protocol), {})
    with pytest.raises(CheckpointError, match=f"the name {name}|posix.system") as caught:
        open_torch_bin(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "OWNED").exists()
    assert os.system is os_system


def machine(data: bytes) -> object:
    return PickleMachine(data, {"collections OrderedDict": dict, "torch FloatStorage": None}, lambda key: key).run()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'x'\ntR.",  # protocol 0 with a text argument
        b"(S'x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'x'\no.",  # OBJ
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02ctorch\nFloatStorage\n)R.",  # a label is not called
        b"\x80\x02ctorch\nFloatStorage\n}b.",  # nor given attributes
        b"\x80\x02X\x01\x00\x00\x00a)R.",  # nor is text
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02}ccollections\nOrderedDict\nK\x01s.",  # a key that cannot be a name
    ],
)
def test_operations_outside_the_table_are_refused(data):
    with pytest.raises(Refused):
        machine(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02r\xff\xff\xff\x7f.",  # memo far out
        b"\x80\x02X\xff\xff\xff\x7fa.",  # text longer than the file
        b"\x80\x02B\xff\xff\xff\xffa.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of 2 GB
        b"\x80\x02j\x05\x00\x00\x00.",  # memo that is not there
        b"\x80\x02t.",
        b"\x80\x02.",
        b"\x80\x02",
        b"",
        b"\x80\x02" + b"(" * 200_000 + b".",
    ],
)
def test_claims_of_size_allocate_nothing(data):
    tracemalloc.start()
    with pytest.raises(Refused):
        machine(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "numel"),
    [
        ((1 << 40,), (1,), 0, 12),
        ((1 << 40, 1 << 40), (0, 0), 0, 12),  # an expanded view of one number
        ((3, 4), (4, 1), 8, 12),
        ((3, 4), (1 << 40, 1), 0, 12),
        ((3,), (1,), 0, 1 << 50),
        ((13,), (1,), 0, 13),
    ],
)
def test_tensors_larger_than_their_data_are_refused(tmp_path, shape, strides, offset, numel):
    table = {"w": pickled.Tensor(pickled.Stored("FloatStorage", "0", numel), offset, shape, strides)}
    path = pickled.zip_file(tmp_path / "x.bin", pickled.dumps(table), {"0": b"\0" * 48})
    with pytest.raises(CheckpointError, match="larger than its 48 bytes"):
        open_torch_bin(path)


@pytest.mark.parametrize(("shape", "strides", "offset"), [((-1,), (1,), 0), ((2,), (-1,), 0), ((2,), (1,), -4)])
def test_negative_sizes_are_refused(tmp_path, shape, strides, offset):
    table = {"w": pickled.Tensor(pickled.Stored("FloatStorage", "0", 12), offset, shape, strides)}
    with pytest.raises(CheckpointError, match="not whole numbers"):
        open_torch_bin(pickled.zip_file(tmp_path / "x.bin", pickled.dumps(table), {"0": b"\0" * 48}))


def test_missing_data_and_foreign_tables(tmp_path):
    table = pickled.dumps({"w": pickled.tensor("5", ARRAYS["w"])})
    with pytest.raises(CheckpointError, match="the data of tensor 'w' are missing"):
        open_torch_bin(pickled.zip_file(tmp_path / "a.bin", table, {}))
    with pytest.raises(CheckpointError, match="a list instead of a table"):
        open_torch_bin(pickled.zip_file(tmp_path / "b.bin", pickle.dumps([1], 2), {}))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        open_torch_bin(pickled.zip_file(tmp_path / "c.bin", pickle.dumps({"lr": 1}, 2), {}))


def test_zip_files_that_torch_does_not_write(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="compressed member"):
        open_torch_bin(tmp_path / "bomb.bin")
    with zipfile.ZipFile(tmp_path / "other.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="no data.pkl"):
        open_torch_bin(tmp_path / "other.bin")
    big = pickled.zip_file(tmp_path / "big.bin", pickled.dumps({}), {}, extra={"byteorder": b"big"})
    with zipfile.ZipFile(big) as archive:
        assert archive.read("archive/byteorder") == b"big"
    with pytest.raises(CheckpointError, match="big-endian"):
        open_torch_bin(big)


def test_every_cut_of_both_forms_is_refused(tmp_path):
    for name, save in (("zip", pickled.save), ("legacy", pickled.save_legacy)):
        data = save(tmp_path / name, ARRAYS).read_bytes()
        for size in [*range(0, min(len(data), 900), 7), len(data) - 1]:
            (tmp_path / "cut.bin").write_bytes(data[:size])
            with pytest.raises(CheckpointError):
                open_torch_bin(tmp_path / "cut.bin")


def test_random_bytes_never_crash_the_reader(tmp_path):
    random = np.random.default_rng(0)
    for save in (pickled.save, pickled.save_legacy):
        data = np.frombuffer(save(tmp_path / "x.bin", ARRAYS).read_bytes(), np.uint8)
        for _ in range(300):
            changed = data.copy()
            changed[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
            (tmp_path / "bad.bin").write_bytes(changed.tobytes())
            try:
                file = open_torch_bin(tmp_path / "bad.bin")
                for name in file.entries:
                    file.read_bits(name)
            except CheckpointError as error:
                assert "\n" not in str(error)


def test_the_legacy_storage_sizes_are_compared(tmp_path):
    path = pickled.save_legacy(tmp_path / "x.bin", {"w": ARRAYS["w"]})
    data = path.read_bytes().replace(struct.pack("<q", 12), struct.pack("<q", 1 << 40))
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="another size"):
        open_torch_bin(path)


def legacy_with(path, body: bytes, *, keys: bytes = b"\x80\x02]."):
    """The older form of torch.save with hand-made tables and storage keys."""
    head = b"".join(pickle.dumps(value, 2) for value in (pickled.MAGIC, pickled.PROTOCOL, {}))
    path.write_bytes(head + body + keys)
    return path


NESTED = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"."
TEXT = b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16) + b"q\x000"
BOMBS = {
    "a size of one long text, again and again": b"\x80\x02" + TEXT
    + b"ctorch\nSize\nq\x010](" + b"h\x01h\x00\x85R" * 1500 + b"e.",
    "a table of one long list, again and again": b"\x80\x02](" + b"X\x01\x00\x00\x00aK\x01\x86" * 9000
    + b"eq\x000ccollections\nOrderedDict\nq\x010](" + b"h\x01h\x00\x85R" * 9000 + b"e.",
    "a name of two lines": b"\x80\x02X\x03\x00\x00\x00a\nbX\x01\x00\x00\x00c\x93.",
    "half a surrogate": b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80K\x01s.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_pickle_takes_little(tmp_path, name):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="^[^\n]{,500}$"):
            open_torch_bin(legacy_with(tmp_path / "x.bin", BOMBS[name]))
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_operations_have_a_largest_number(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPERATIONS", 1000)
    with pytest.raises(CheckpointError, match="more than 1,000 operations"):
        open_torch_bin(legacy_with(tmp_path / "x.bin", b"\x80\x02" + b"N0" * 501 + b"}."))


@pytest.mark.parametrize("keys", [NESTED, b"\x80\x02](]e.", b"\x80\x02](K\x01e.", b"\x80\x02](" + NESTED[2:-1] + b"e."])
def test_keys_of_storages_are_text(tmp_path, keys):
    with pytest.raises(CheckpointError, match="list of storages"):
        open_torch_bin(legacy_with(tmp_path / "x.bin", b"\x80\x02}.", keys=keys))
