"""Tables of torch tensors in .npy files, as ModelSlim saves them, without torch: np.save of a dict {name: tensor}.

The pickle in the file is read by PickleMachine, which can describe this one form and calls nothing; numbers stay in the
mapped file until they are used. What is written here, np.load and torch read like their own.
"""

from __future__ import annotations

import ast
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import BY_TORCH, DTYPES
from mindformers_glm.checkpoint.formats.pickle_machine import Holder, PickleMachine, Refused
from mindformers_glm.checkpoint.formats.torch_bin import loaded_from_bytes
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import atomic_write, open_regular

_MAGIC = b"\x93NUMPY\x01\x00"
_HEAD = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
_STORAGES = {DTYPES[kind.name].storage.name: name for name, kind in BY_TORCH.items() if kind.name != "bfloat16"}
_FIX = "Write the files again with tools/export_quant_weight.py."


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name, in their order; they lie in the mapped file.

    Raises:
        CheckpointError: there is no such file, or it holds something else than a table of tensors.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            head = file.read(10)
            if head[:8] != _MAGIC:
                raise CheckpointError(str(path), "it is no .npy file of this form", _FIX)
            described = file.read(struct.unpack("<H", head[8:])[0])
            if ast.literal_eval(described.decode("latin1").strip()) != ast.literal_eval(_HEAD):
                raise CheckpointError(str(path), "it holds an array, not a table of tensors", _FIX)
            start = file.tell()
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (ValueError, SyntaxError, struct.error) as error:
        raise CheckpointError(str(path), "its header is damaged", _FIX) from error
    machine = PickleMachine(data, _NAMES, _no_reference)
    machine.position = start
    try:
        return _table(machine.run())
    except Refused as refused:
        raise CheckpointError(str(path), f"its pickle holds {refused}", "Only tensors are read.") from refused


def write_table(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors as np.save of a dict of torch tensors does. Whole or not at all.

    Raises:
        CheckpointError: a type that torch's storages here do not have.
        OSError: the disk is full or cannot be written.
    """
    for name, value in tensors.items():
        if value.dtype.name not in _STORAGES:
            raise CheckpointError(str(path), f"{name} is {value.dtype}", "Use int8, int32, int64, float16 or float32.")
    with atomic_write(Path(path), "wb") as file:
        text = _HEAD + " " * (-(10 + len(_HEAD) + 1) % 64) + "\n"
        file.write(_MAGIC + struct.pack("<H", len(text)) + text.encode("latin1"))
        file.write(_OPENING)
        for number, (name, value) in enumerate(tensors.items()):
            file.write(_string(name))
            _write_tensor(file, np.ascontiguousarray(value), str(number))
        file.write(_CLOSING)


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """Stands for torch._utils._rebuild_tensor_v2, of a storage that is there already."""
    if not isinstance(storage, tuple) or len(storage) != 2:
        raise Refused("a tensor without storage")
    dtype, numbers = storage
    numeric = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 8
    if not numeric or not all(type(value) is int and value >= 0 for value in (offset, *shape, *strides)):
        raise Refused("a tensor whose shape, strides or offset are not whole numbers")
    flat = np.frombuffer(numbers, DTYPES[dtype].storage)
    dense = [int(np.prod(shape[place + 1 :], dtype=np.int64)) for place in range(len(shape))]
    wanted = int(np.prod(shape, dtype=np.int64))
    strange = [place for place, size in enumerate(shape) if size > 1 and strides[place] != dense[place]]
    if strange or offset + wanted > len(flat):
        raise Refused("a tensor that is no dense part of its storage")
    return flat[offset : offset + wanted].reshape(shape)


def _no_reference(_: Any) -> Any:
    raise Refused("a reference to another file")


def _ordered(*items: Any) -> dict[Any, Any]:
    if items:
        raise Refused("an OrderedDict with items")
    return {}


_NAMES: dict[str, Any] = {
    "numpy.core.multiarray _reconstruct": Holder,
    "numpy._core.multiarray _reconstruct": Holder,
    "numpy ndarray": None,
    "numpy dtype": Holder,
    "torch._utils _rebuild_tensor_v2": _rebuilt,
    "torch.storage _load_from_bytes": loaded_from_bytes,
    "collections OrderedDict": _ordered,
}


def _table(root: Any) -> dict[str, np.ndarray]:
    """The dict in the object array that np.save wrapped it in."""
    state = root.state if isinstance(root, Holder) else None
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[4], list) or len(state[4]) != 1:
        raise Refused("something else than one object")
    table = state[4][0]
    if not isinstance(table, dict) or not all(isinstance(value, np.ndarray) for value in table.values()):
        raise Refused("something else than a table of tensors")
    return {str(name): value for name, value in table.items()}


# --- the bytes of the pickle, protocol 3 ---------------------------------------------------------------------------

_OPENING = (
    b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    b"(K\x01)cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]}("
)
_CLOSING = b"uatb."


def _string(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _whole(value: int) -> bytes:
    raw = value.to_bytes(8, "little", signed=True)
    return b"K" + raw[:1] if 0 <= value < 256 else b"\x8a\x08" + raw


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_whole, values)) + b"t"


def _write_tensor(file: IO[bytes], value: np.ndarray, key: str) -> None:
    kind = _STORAGES[value.dtype.name]
    head = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
        b"\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\r\x00\x00\x00little_endian\x88"
        b"X\n\x00\x00\x00type_sizes}(X\x05\x00\x00\x00shortK\x02X\x03\x00\x00\x00intK\x04X\x04\x00\x00\x00longK\x04uu."
        + b"\x80\x02(X\x07\x00\x00\x00storage"
        + f"ctorch\n{kind}\n".encode()
        + _string(key)
        + b"X\x03\x00\x00\x00cpu"
        + _whole(value.size)
        + b"NtQ.\x80\x02]"
        + _string(key)
        + b"a."
        + struct.pack("<q", value.size)
    )
    strides = tuple(step // value.itemsize for step in value.strides)
    file.write(b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\nB")
    file.write(struct.pack("<I", len(head) + value.nbytes) + head)
    file.write(value.data.cast("B") if value.size else b"")
    file.write(b"\x85RK\x00" + _tuple(value.shape) + _tuple(strides))
    file.write(b"\x89ccollections\nOrderedDict\n)RtR")
