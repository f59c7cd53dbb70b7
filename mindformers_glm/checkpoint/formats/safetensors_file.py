"""Safetensors files: read by byte range, written in one pass with every size known beforehand.

Format: 8 bytes header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(https://github.com/huggingface/safetensors). The package of that name is not used for reading: it maps the file, so
that reading 805 MB by slices of 2 MB took 0.3 s and 770 MB of memory, where ordinary reads took 0.4 s and 6 MB
(safetensors 0.8.0, page cache warm); its NumPy side knows no bfloat16, which is what most published weights are.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import BY_SAFETENSORS, DTYPES
from mindformers_glm.checkpoint.formats.tensor_file import MOST_TENSORS, Entry, Span, TensorFile, check_spans, damaged
from mindformers_glm.errors import CheckpointError, shorten
from mindformers_glm.files import open_regular

_HEADER_LIMIT = 32 << 20  # 200,000 tensors; the format allows 100 MB


def open_safetensors(path: str | Path) -> TensorFile:
    """The table of a .safetensors file.

    Raises:
        CheckpointError: not such a file, cut short, or a header that contradicts itself.
    """
    path = Path(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise damaged(path, f"no safetensors header (it announces {length:,} bytes in a file of {size:,})")
        header = _parse(file.read(length), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "the header's metadata is not a table of strings")
    if len(header) > MOST_TENSORS:
        raise damaged(path, f"the header names {len(header):,} tensors")
    entries = {name: _entry(path, name, row, 8 + length, size) for name, row in header.items()}
    _check_overlap(path, entries, size)
    return TensorFile(path, "safetensors", dict(sorted(entries.items(), key=_offset)), metadata)


def header_bytes(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], *, aligned: int = 8
) -> bytes:
    """The start of a file whose data follow in the order of `tensors` (name, dtype, shape), at a multiple of bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + Entry(name, dtype, tuple(shape), ()).size
        header[name] = {"dtype": DTYPES[dtype].safetensors, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % aligned)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(
    file: IO[bytes], tensors: Iterable[tuple[str, str, Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes (name, dtype, bits) rows, arrays in storage types, to an open file; data are aligned to 8 bytes first."""
    rows = sorted(tensors, key=lambda row: (-DTYPES[row[1]].storage.itemsize, row[0]))
    file.write(header_bytes([(name, dtype, bits.shape) for name, dtype, bits in rows], metadata or {}))
    for _, _, bits in rows:
        if bits.size:
            file.write(np.ascontiguousarray(bits).data.cast("B"))


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise damaged(path, "the header names a tensor twice")
        return table

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except CheckpointError:
        raise
    except UnicodeDecodeError as error:
        raise damaged(path, f"the safetensors header is not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"the safetensors header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged(path, "the safetensors header is not a table")
    return header


def _entry(path: Path, name: str, row: Any, base: int, size: int) -> Entry:
    try:
        dtype, shape, (start, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        integers = all(type(value) is int for value in (*shape, start, end))
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(path, f"the header's row of {shorten(name)} is not complete") from error
    if not integers:
        raise damaged(path, f"the header's row of {shorten(name)} holds something else than whole numbers")
    if not isinstance(dtype, str) or dtype not in BY_SAFETENSORS:
        fault = f"tensor {shorten(name)} has the type {shorten(dtype)}"
        raise CheckpointError(str(path), fault, "This number type cannot be read.")
    if not 0 <= start <= end <= size:
        raise damaged(path, f"tensor {shorten(name)} lies outside the file ({size:,} bytes)")
    entry = Entry(name, BY_SAFETENSORS[dtype].name, shape, (Span(base + start, end - start),))
    return check_spans(path, entry, size)


def _check_overlap(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    end = 0
    for name, entry in sorted(entries.items(), key=_offset):
        span = entry.spans[0]
        if span.size and span.offset < end:
            raise damaged(path, f"tensor {name!r} shares bytes with another")
        end = max(end, span.offset + span.size)
    if entries and end != size:
        raise damaged(path, f"the data end at byte {end:,} of {size:,}")


def _offset(item: tuple[str, Entry]) -> tuple[int, int]:
    span = item[1].spans[0]
    return span.offset, span.size
