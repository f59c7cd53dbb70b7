"""A file of tensors as torch.save writes it, without PyTorch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import bits_of, name_of
from mindformers_glm.files import atomic_write

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `{"model": tensors, "checkpoint_version": 3.0, "iteration": 1}` as torch.save does, without PyTorch."""
    pickle, arrays = _Pickle(), []
    pickle.mark_dict()
    pickle.text("model")
    pickle.mark_dict()
    for number, (name, value) in enumerate(tensors.items()):
        arrays.append(np.ascontiguousarray(bits_of(value)))
        pickle.text(name)
        pickle.tensor(str(number), _STORAGES[name_of(value)], value.shape)
    pickle.raw(b"u")
    pickle.text("checkpoint_version")
    pickle.raw(b"G" + struct.pack(">d", 3.0))
    pickle.text("iteration")
    pickle.number(1)
    pickle.raw(b"u.")
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("archive/data.pkl", bytes(pickle.data))
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(arrays):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", "3\n")


class _Pickle:
    """The few operations of pickle protocol 2 that a table of tensors needs."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02")

    def raw(self, code: bytes) -> None:
        self.data += code

    def mark_dict(self) -> None:
        self.raw(b"}(")

    def text(self, text: str) -> None:
        encoded = text.encode()
        self.raw(b"X" + struct.pack("<I", len(encoded)) + encoded)

    def number(self, value: int) -> None:
        if value < 2**31:
            self.raw(b"J" + struct.pack("<i", value))
        else:
            self.raw(b"\x8a\x08" + struct.pack("<q", value))

    def numbers(self, values: tuple[int, ...]) -> None:
        self.raw(b"(")
        for value in values:
            self.number(value)
        self.raw(b"t")

    def tensor(self, key: str, storage: str, shape: tuple[int, ...]) -> None:
        """A call of torch._utils._rebuild_tensor_v2 on a whole, dense storage."""
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        self.text("storage")
        self.raw(b"ctorch\n" + storage.encode() + b"\n")
        self.text(key)
        self.text("cpu")
        self.number(int(np.prod(shape)))
        self.raw(b"tQ")
        self.number(0)
        self.numbers(tuple(shape))
        self.numbers(strides)
        self.raw(b"\x89ccollections\nOrderedDict\n)RtR")
