"""Files as torch.save writes them, made without PyTorch, honest and hostile, for tests."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

_TYPES = {"float16": "HalfStorage", "float32": "FloatStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage"}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Named:
    """Pickles as the global `module.name`, which need not exist."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """Pickle asks that it can be called."""


class Stored:
    """Stands for a storage; becomes a persistent id."""

    def __init__(self, kind: str, key: str, numel: int) -> None:
        self.kind, self.key, self.numel = kind, key, numel


class Tensor:
    """Pickles as torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())."""

    def __init__(self, storage: Stored, offset, shape, strides) -> None:
        self.arguments = (storage, offset, shape, strides, False, {})

    def __reduce__(self):
        return Named("torch._utils", "_rebuild_tensor_v2"), self.arguments


class Call:
    """Pickles as a call of `module.name(*arguments)`."""

    def __init__(self, module: str, name: str, *arguments) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def __reduce__(self):
        return Named(self.module, self.name), self.arguments


class _Pickler(pickle._Pickler):
    """The pickler in Python, which writes globals without looking them up."""

    dispatch = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        if isinstance(value, Stored):
            return ("storage", Named("torch", value.kind), value.key, "cpu", value.numel)
        return None

    def save_named(self, value: Named) -> None:
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    dispatch[Named] = save_named


def dumps(value, protocol: int = 2) -> bytes:
    """The pickle of a table of Tensor, Call and plain values."""
    out = io.BytesIO()
    _Pickler(out, protocol).dump(value)
    return out.getvalue()


def tensor(key: str, array: np.ndarray, kind: str | None = None) -> Tensor:
    """A dense tensor that owns storage `key`."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return Tensor(Stored(kind or _TYPES[array.dtype.name], key, array.size), 0, array.shape, strides)


def zip_file(path: Path, data_pkl: bytes, storages: dict[str, bytes], *, extra: dict[str, bytes] | None = None) -> Path:
    """The zip form of torch.save."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in {"byteorder": b"little", "version": b"3\n", **(extra or {})}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def save(path: Path, arrays: dict[str, np.ndarray], protocol: int = 2) -> Path:
    """Arrays as torch.save(state_dict) writes them."""
    table = {name: tensor(str(i), array) for i, (name, array) in enumerate(arrays.items())}
    storages = {str(i): np.ascontiguousarray(array).tobytes() for i, array in enumerate(arrays.values())}
    return zip_file(path, dumps(table, protocol), storages)


def save_legacy(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """The single stream that torch wrote before 1.6."""
    table = {name: tensor(str(i), array) for i, (name, array) in enumerate(arrays.items())}
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = [str(i) for i in range(len(arrays))]
    parts = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, system)] + [dumps(table), pickle.dumps(keys, 2)]
    for array in arrays.values():
        parts.append(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(b"".join(parts))
    return path
