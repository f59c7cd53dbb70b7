"""PyTorch .bin files without PyTorch: the zip form of torch.save (1.6 and later) and the older single stream.

The pickle inside is read by PickleMachine, which can only describe tensors; numbers are then read from the file by
byte range. Sizes are checked against the file before anything is allocated.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from mindformers_glm.checkpoint.formats.dtypes import BY_TORCH, DTYPES
from mindformers_glm.checkpoint.formats.pickle_machine import Name, PickleMachine, Refused
from mindformers_glm.checkpoint.formats.tensor_file import Entry, Span, TensorFile, check_spans, damaged
from mindformers_glm.errors import CheckpointError, shorten
from mindformers_glm.files import open_regular

_PICKLE_LIMIT = 256 * 1024 * 1024
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # PROTO is before it, STOP after
_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
_MOST_AXES = 32
_NESTED_HEAD = 4096  # a storage inside another pickle describes itself in less


class _Storage(NamedTuple):
    key: str
    dtype: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_torch_file(start: bytes) -> bool:
    """True when a file that begins so was written by torch.save."""
    return start.startswith(b"PK\x03\x04") or _is_legacy(start)


def open_torch_bin(path: str | Path) -> TensorFile:
    """The table of a .bin, .pt or .pth file.

    Raises:
        CheckpointError: the pickle names something else than tensors, or the file is damaged.
    """
    path = Path(path)
    with open_regular(path) as file:
        start = file.read(16)
    try:
        root, offsets = _legacy(path) if _is_legacy(start) else _zipped(path)
        tensors = _tensors(root)
    except Refused as refused:
        raise CheckpointError(
            str(path),
            f"its pickle holds {refused}",
            "Only tensors are read. Ask for safetensors, or do not use the file.",
        ) from refused
    limit = path.stat().st_size
    entries = {name: _entry(path, name, value, offsets, limit) for name, value in tensors.items()}
    if not entries:
        raise CheckpointError(str(path), "it holds no tensors", "Give a file of weights.")
    return TensorFile(path, "bin", entries)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Stands for torch._utils._rebuild_tensor_v2; requires_grad, hooks and metadata are dropped."""
    numbers = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MOST_AXES
    if not numbers or not all(type(value) is int and value >= 0 for value in (offset, *shape, *strides)):
        raise Refused("a tensor whose shape, strides or offset are not whole numbers")
    if not isinstance(storage, _Storage):
        raise Refused("a tensor without storage")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise Refused("a parameter that is no tensor")
    return tensor


def _ordered(*items: Any) -> dict[Any, Any]:
    """Stands for collections.OrderedDict, which torch makes from nothing or from a list of pairs."""
    pairs = items[0] if items else []
    known = len(items) < 2 and isinstance(pairs, list)
    if not known or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise Refused("an OrderedDict of an unknown form")
    table = {key: value for key, value in pairs if isinstance(key, str)}
    pairs.clear()  # so that a list is copied once, however often the file refers to it
    return table


def _size(*items: Any) -> tuple[int, ...]:
    sizes = items[0] if items else ()
    if not isinstance(sizes, (tuple, list)) or len(sizes) > _MOST_AXES:
        raise Refused("a size of an unknown form")
    return tuple(sizes)


_NAMES: dict[str, Any] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch Size": _size,
    **{f"torch {name}": None for name in BY_TORCH},
    **{f"torch.storage {name}": None for name in BY_TORCH},
}


def _storage(reference: Any) -> _Storage:
    """The storage that a persistent id ("storage", class, key, device, number of elements) names."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise Refused("a reference that is no storage")
    _, kind, key, _, numel = reference[:5]
    if not isinstance(kind, Name) or kind.build is not None or not isinstance(key, str):
        raise Refused("a storage of unknown type")
    if type(numel) is not int or numel < 0:
        raise Refused("a storage of unknown size")
    return _Storage(key, BY_TORCH[kind.name.split()[1]].name, numel)


def loaded_from_bytes(data: Any) -> tuple[str, memoryview]:
    """Stands for torch.storage._load_from_bytes: type and numbers of the one storage that a single stream holds.

    Raises:
        Refused: it is something else.
    """
    whole = memoryview(data) if isinstance(data, (bytes, memoryview)) else memoryview(b"")
    head = bytes(whole[:_NESTED_HEAD])
    if not _is_legacy(head):
        raise Refused("bytes that are no file of torch.save")
    position, found = 0, []
    for _ in range(5):
        machine = PickleMachine(head, _NAMES, _storage)
        machine.position = position
        found.append(machine.run())
        position = machine.position
    storage, keys = found[3], found[4]
    if not isinstance(storage, _Storage) or keys != [storage.key]:
        raise Refused("a storage of an unknown form")
    size = storage.numel * DTYPES[storage.dtype].storage.itemsize
    numbers = whole[position + 8 :]
    if struct.unpack("<q", whole[position : position + 8]) != (storage.numel,) or len(numbers) != size:
        raise Refused("a storage of another size than it says")
    return storage.dtype, numbers


def _zipped(path: Path) -> tuple[Any, dict[str, Span]]:
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise damaged(path, "no data.pkl in it: not a file of torch.save")
            folder = pickles[0].filename[: -len("data.pkl")]
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise Refused(f"the compressed member {shorten(info.filename)}, which torch.save never writes")
            if pickles[0].file_size > _PICKLE_LIMIT:
                raise Refused(f"a description of {pickles[0].file_size:,} bytes")
            order = [info for info in archive.infolist() if info.filename == folder + "byteorder"]
            if order and (order[0].file_size > 16 or archive.read(order[0]) != b"little"):
                raise CheckpointError(str(path), "it was written on a big-endian machine", "Save it again on another.")
            prefix = folder + "data/"
            offsets = {
                info.filename[len(prefix) :]: Span(_data_offset(file, info), info.file_size)
                for info in archive.infolist()
                if info.filename.startswith(prefix)
            }
            root = PickleMachine(archive.read(pickles[0]), _NAMES, _storage).run()
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        OverflowError,
        KeyError,
    ) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise damaged(path, f"not a readable torch file ({shorten(told or 'cut short')[1:-1]})") from error
    return root, offsets


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _is_legacy(start: bytes) -> bool:
    return start[:1] == b"\x80" and start[2:14] == _LEGACY_MAGIC


def _legacy(path: Path) -> tuple[Any, dict[str, Span]]:
    """Five pickles (magic, version, system, the tables, storage keys), then each storage: its length and data."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        data = file.read(min(size, _PICKLE_LIMIT))
        position = 0
        found: list[Any] = []
        sizes: dict[str, _Storage] = {}

        def storage(reference: Any) -> _Storage:
            one = _storage(reference)
            return sizes.setdefault(one.key, one)

        for _ in range(5):
            machine = PickleMachine(data, _NAMES, storage)
            machine.position = position
            found.append(machine.run())
            position = machine.position
        keys = found[4]
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in sizes for key in keys):
            raise Refused("a list of storages that does not fit its tensors")
        offsets = {}
        for key in keys:
            file.seek(position)
            header = file.read(8)
            if len(header) < 8 or struct.unpack("<q", header)[0] != sizes[key].numel:
                raise damaged(path, f"storage {shorten(key)} has another size than its tensors say")
            span = Span(position + 8, sizes[key].numel * DTYPES[sizes[key].dtype].storage.itemsize)
            offsets[key], position = span, span.offset + span.size
    return found[3], offsets


def _tensors(root: Any) -> dict[str, _Tensor]:
    """The tensors of the top table, or of the table that a training checkpoint keeps under a usual name."""
    if not isinstance(root, dict):
        raise Refused(f"a {type(root).__name__} instead of a table of tensors")
    for name in _WRAPPERS:
        if isinstance(root.get(name), dict):
            root = root[name]
            break
    return {str(name): value for name, value in root.items() if isinstance(value, _Tensor)}


def _entry(path: Path, name: str, tensor: _Tensor, offsets: dict[str, Span], limit: int) -> Entry:
    storage, item = tensor.storage, DTYPES[tensor.storage.dtype].storage.itemsize
    span = offsets.get(storage.key)
    if span is None:
        raise damaged(path, f"the data of tensor {shorten(name)} are missing")
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    entry = Entry(name, storage.dtype, tensor.shape, ())
    empty = 0 in tensor.shape
    if storage.numel * item > span.size or entry.size > span.size or (not empty and last >= storage.numel):
        raise damaged(
            path,
            f"tensor {shorten(name)} of shape {shorten(tensor.shape)} is larger than its {span.size:,} bytes of data",
        )
    start = span.offset + tensor.offset * item
    if empty or _is_dense(tensor):
        return check_spans(path, entry._replace(spans=(Span(start, entry.size),)), limit)
    extent = (last - tensor.offset + 1) * item
    return check_spans(path, entry._replace(spans=(Span(start, extent),), strides=tensor.strides), limit)


def _is_dense(tensor: _Tensor) -> bool:
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
