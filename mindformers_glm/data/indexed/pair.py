r"""A `.bin`/`.idx` pair of Megatron: sequences of token ids, read in place and written as they come.

Form of PREFIX.idx (Megatron-core, core/datasets/indexed_dataset.py; little-endian): `MMIDIDX\0\0`, u64 version 1,
u8 dtype code, u64 S sequences, u64 D + 1, S lengths i32, S byte offsets into the .bin i64, D + 1 document borders i64
(document d is the sequences from border d up to border d + 1), then, with several kinds of content, S modes i8.
PREFIX.bin holds the tokens of all sequences and nothing else.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from mindformers_glm.errors import DataError
from mindformers_glm.files import atomic_write, sync_folder, user_path
from mindformers_glm.labels import IGNORED

MAGIC = b"MMIDIDX\x00\x00"
DTYPES: dict[int, np.dtype] = {
    code: np.dtype(name) for code, name in ((1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2"))
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
_HEADER = struct.Struct("<9sQBQQ")
_PART = 1 << 20  # entries of the index written or checked at a time
_SMALL_VOCABULARY = 65500  # Megatron's border between uint16 and int32


def narrowest_dtype(vocab_size: int | None) -> np.dtype:
    """The type in which Megatron's own builder keeps ids of a vocabulary: uint16 below 65,500 ids, else int32."""
    return np.dtype("<u2") if vocab_size is not None and vocab_size < _SMALL_VOCABULARY else np.dtype("<i4")


def paths_of(prefix: str | Path) -> tuple[Path, Path]:
    """The .bin and the .idx of a prefix; either file's own name is taken as its prefix too."""
    text = str(user_path(prefix))
    text = text[:-4] if text.endswith((".bin", ".idx")) else text
    return Path(text + ".bin"), Path(text + ".idx")


def is_pair(prefix: str | Path) -> bool:
    """Whether both files of a pair are there."""
    return all(path.is_file() for path in paths_of(prefix))


class IndexedPair:
    """Sequences of a pair, read from the mapped file as they are asked for.

    `lengths` (S,) int32, `offsets` (S,) int64 bytes, `documents` (D + 1,) int64, `modes` (S,) int8 or None.

    Raises:
        DataError: a file is missing, is no such pair, or states what its size contradicts.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.bin_path, self.idx_path = paths_of(prefix)
        self.prefix = str(self.bin_path)[:-4]
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                fix = "Give the prefix of the pair as preprocess_data wrote it, without .bin and .idx"
                raise DataError(str(path), "there is no such file", fix)
        self.dtype, count, borders, modes = _header(self.idx_path)
        raw, place = np.memmap(self.idx_path, np.uint8, "r"), _HEADER.size
        self.lengths, place = _piece(raw, place, np.dtype("<i4"), count)
        self.offsets, place = _piece(raw, place, np.dtype("<i8"), count)
        self.documents, place = _piece(raw, place, np.dtype("<i8"), borders)
        self.modes = _piece(raw, place, np.dtype("i1"), count)[0] if modes else None
        self._check()
        size = self.bin_path.stat().st_size
        self.tokens: np.ndarray = np.memmap(self.bin_path, self.dtype, "r") if size else np.zeros(0, self.dtype)

    def __len__(self) -> int:
        """Sequences."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Ids of one sequence, in the file's type."""
        return self.get(index)

    @property
    def num_documents(self) -> int:
        """Documents, empty ones counted."""
        return max(len(self.documents) - 1, 0)

    def get(self, index: int, offset: int = 0, length: int | None = None) -> np.ndarray:
        """`length` ids of a sequence from its place `offset`; all that follow it by default."""
        begin = int(self.offsets[index]) // self.dtype.itemsize + offset
        stop = int(self.lengths[index]) - offset if length is None else length
        return self.tokens[begin : begin + stop]

    def _check(self) -> None:
        """Compares what the index says with the size of the .bin, a part at a time."""
        size, width, expected = self.bin_path.stat().st_size, self.dtype.itemsize, 0
        if size % width:
            raise _damaged(self.bin_path, f"its {size} bytes are no whole number of {self.dtype.name} ids")
        for begin in range(0, len(self.lengths), _PART):
            lengths = np.asarray(self.lengths[begin : begin + _PART], np.int64)
            offsets = np.asarray(self.offsets[begin : begin + _PART])
            if lengths.min() < 0 or offsets.min() < 0 or int((offsets + lengths * width).max()) > size:
                at = begin + int(np.argmax((lengths < 0) | (offsets < 0) | (offsets + lengths * width > size)))
                raise _damaged(self.idx_path, f"sequence {at} lies outside {self.bin_path.name} ({size} bytes)")
            if (offsets % width).any():
                raise _damaged(self.idx_path, f"an offset is no multiple of {width}, the size of an id")
            expected += int(lengths.sum()) * width
        if expected > size:
            raise _damaged(self.idx_path, f"it names {expected} bytes of ids, {self.bin_path.name} holds {size}")
        last = -1
        for begin in range(0, len(self.documents), _PART):
            borders = np.asarray(self.documents[begin : begin + _PART])
            if (np.diff(borders, prepend=max(last, 0)) < 0).any() or int(borders[-1]) > len(self):
                raise _damaged(self.idx_path, "its document borders do not rise from 0 to the number of sequences")
            last = int(borders[-1])


class Verified(NamedTuple):
    """What a look at every id of a pair found."""

    sequences: int
    documents: int
    tokens: int
    dtype: str
    smallest_id: int | None
    largest_id: int | None
    empty_documents: int


def verify(prefix: str | Path, *, vocab_size: int | None = None) -> Verified:
    """Reads a whole pair and counts it.

    Raises:
        DataError: the pair is damaged, or an id is below 0 or not below `vocab_size`.
    """
    pair = IndexedPair(prefix)
    smallest, largest = None, None
    for begin in range(0, len(pair.tokens), _PART):
        part = pair.tokens[begin : begin + _PART]
        low, high = int(part.min()), int(part.max())
        smallest = low if smallest is None else min(smallest, low)
        largest = high if largest is None else max(largest, high)
    if (
        smallest is not None
        and largest is not None
        and (smallest < IGNORED or (vocab_size is not None and largest >= vocab_size))
    ):
        fault = f"ids reach from {smallest} to {largest}, beyond a vocabulary of {vocab_size}"
        raise DataError(str(pair.bin_path), fault, "Make the pair with the tokenizer that reads it")
    empty = int((np.diff(pair.documents) == 0).sum())
    total = int(np.asarray(pair.lengths, np.int64).sum())
    return Verified(len(pair), pair.num_documents, total, pair.dtype.name, smallest, largest, empty)


class PairWriter:
    """Writes a pair in order, in memory that does not grow with it; the names appear when `finish` is called.

    Until then all lies in hidden files beside: `state()` names how far the written part is on the disk, and a writer
    opened with that state after a kill goes on there.

    Raises:
        DataError: the pair exists already and `overwrite` was not asked for, or state and files disagree.
    """

    def __init__(
        self, prefix: str | Path, dtype: np.dtype, *, overwrite: bool = False, resume: Sequence[int] | None = None
    ) -> None:
        self.bin_path, self.idx_path = paths_of(prefix)
        self.dtype = np.dtype(dtype)
        if self.dtype not in CODES:
            raise DataError(str(self.bin_path), f"{self.dtype} is no type of a pair", "Use uint16 or int32")
        for path in (self.bin_path, self.idx_path):
            if path.exists() and not overwrite:
                raise DataError(str(path), "it exists already", "Choose another --output-prefix, or give --overwrite")
        self.bin_path.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.bin_path.exists() and not (self.idx_path.exists() or self._hidden("bin").exists()):
            os.replace(self.bin_path, self._hidden("bin"))  # killed between the two names
        parts = [self._hidden(kind) for kind in ("bin", "lengths", "documents")]
        self._files: list[IO[bytes]] = []
        for path, size in zip(parts, resume or (0, 0, 0), strict=True):
            file = path.open("r+b" if resume and path.exists() else "w+b")
            self._files.append(file)
            file.seek(0, os.SEEK_END)
            if file.tell() < size:
                self.close()
                raise DataError(str(path), f"it holds {file.tell()} bytes, the journal says {size}", "Start anew")
            file.truncate(size)
            file.seek(size)
        self._sequences = (resume or (0, 0, 0))[1] // 4
        if not resume:
            self._borders(np.zeros(1, np.int64))

    def add(self, sequences: Sequence[np.ndarray | Sequence[int]], *, ends_document: bool = True) -> None:
        """Appends sequences of ids, and the border of a document after them."""
        arrays = [np.asarray(ids, self.dtype) for ids in sequences]
        self.add_raw(
            b"".join(array.tobytes() for array in arrays),
            np.array([len(array) for array in arrays], "<i4"),
            np.array([len(arrays)] if ends_document else [], np.int64),
        )

    def add_raw(self, tokens: bytes, lengths: np.ndarray, per_document: np.ndarray) -> None:
        """Appends ids as bytes of this type, the length of each sequence, the number of sequences of each document."""
        self._files[0].write(tokens)
        self._files[1].write(np.ascontiguousarray(lengths, "<i4").tobytes())
        if len(per_document):
            self._borders(self._sequences + np.cumsum(per_document, dtype=np.int64))
        self._sequences += len(lengths)

    def add_pair(self, pair: IndexedPair) -> None:
        """Appends all sequences and documents of another pair of the same type."""
        if pair.dtype != self.dtype:
            fault = f"its ids are {pair.dtype.name}, those before it {self.dtype.name}"
            raise DataError(pair.prefix, fault, "Merge pairs of one type")
        for begin in range(0, len(pair), _PART):
            lengths = pair.lengths[begin : begin + _PART]
            for index in range(begin, begin + len(lengths)):
                self._files[0].write(pair[index].tobytes())
            self._files[1].write(lengths.tobytes())
        for begin in range(1, len(pair.documents), _PART):
            self._borders(np.asarray(pair.documents[begin : begin + _PART]) + self._sequences)
        self._sequences += len(pair)

    def state(self) -> tuple[int, int, int]:
        """Bytes of the three hidden files, all of them on the disk when this returns."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        sizes = [file.tell() for file in self._files]
        return sizes[0], sizes[1], sizes[2]

    def finish(self) -> None:
        """Gives the pair its names. An old pair of this name is gone from here on; nothing is ever half a pair."""
        bin_bytes, length_bytes, border_bytes = self.state()
        self.idx_path.unlink(missing_ok=True)
        os.replace(self._hidden("bin"), self.bin_path)
        with atomic_write(self.idx_path) as file:
            count = length_bytes // 4
            file.write(_HEADER.pack(MAGIC, 1, CODES[self.dtype], count, border_bytes // 8))
            _copy(self._files[1], file)
            offset = 0
            for part in _parts(self._files[1], "<i4"):
                sizes = part.astype(np.int64) * self.dtype.itemsize
                ends = offset + np.cumsum(sizes)
                file.write((ends - sizes).astype("<i8").tobytes())
                offset = int(ends[-1])
            _copy(self._files[2], file)
        self.close()
        for kind in ("lengths", "documents"):
            self._hidden(kind).unlink(missing_ok=True)
        sync_folder(self.bin_path.parent)

    @classmethod
    def is_finished(cls, prefix: str | Path) -> bool:
        """Whether `finish` came to its end for a pair whose last state was saved before it."""
        bin_path, idx_path = paths_of(prefix)
        return idx_path.exists() and bin_path.exists() and not _hidden(bin_path, "bin").exists()

    def discard(self) -> None:
        """Removes what was written; an old pair of this name stays."""
        self.close()
        for kind in ("bin", "lengths", "documents"):
            self._hidden(kind).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the hidden files and leaves them."""
        for file in self._files:
            file.close()

    def _borders(self, borders: np.ndarray) -> None:
        self._files[2].write(np.ascontiguousarray(borders, "<i8").tobytes())

    def _hidden(self, kind: str) -> Path:
        return _hidden(self.bin_path, kind)


def merge(prefixes: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> None:
    """Writes the sequences and documents of several pairs, one pair after the other, as one pair.

    Raises:
        DataError: there is none, one is damaged, types differ, or the output exists.
    """
    if not prefixes:
        raise DataError(str(output), "there is nothing to merge", "Name the prefixes of the pairs")
    pairs = [IndexedPair(prefix) for prefix in prefixes]
    target = paths_of(output)[0].resolve()
    for pair in pairs:
        if pair.bin_path.resolve() == target:
            raise DataError(str(pair.bin_path), "it is read and written at once", "Choose another --output-prefix")
    writer = PairWriter(output, pairs[0].dtype, overwrite=overwrite)
    try:
        for pair in pairs:
            writer.add_pair(pair)
        writer.finish()
    except BaseException:
        writer.discard()
        raise


def split(prefix: str | Path, output: str | Path, parts: int, *, overwrite: bool = False) -> list[str]:
    """Writes OUTPUT_0 ... OUTPUT_(parts - 1), each a run of whole documents; returns their prefixes.

    Raises:
        DataError: the pair is damaged, holds fewer documents than parts, or an output exists.
    """
    pair = IndexedPair(prefix)
    if not 1 <= parts <= max(pair.num_documents, 1):
        raise DataError(pair.prefix, f"{pair.num_documents} documents make no {parts} parts", "Ask for fewer parts")
    made = []
    for number, run in enumerate(np.array_split(np.arange(pair.num_documents), parts)):
        writer = PairWriter(f"{output}_{number}", pair.dtype, overwrite=overwrite)
        try:
            for document in run:
                first, last = int(pair.documents[document]), int(pair.documents[document + 1])
                writer.add([pair[index] for index in range(first, last)])
            writer.finish()
        except BaseException:
            writer.discard()
            raise
        made.append(f"{output}_{number}")
    return made


def _hidden(bin_path: Path, kind: str) -> Path:
    return bin_path.with_name(f".{bin_path.stem}.{kind}.part")


def _header(path: Path) -> tuple[np.dtype, int, int, bool]:
    """Type of the ids, sequences, document borders, and whether modes follow; sizes agree with the file's.

    Raises:
        DataError: this is no index, or it states more than it holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:9] != MAGIC:
        raise DataError(str(path), "this is no Megatron index (MMIDIDX)", "Give the prefix of a .bin/.idx pair")
    _, version, code, count, borders = _HEADER.unpack(head)
    if version != 1:
        raise DataError(str(path), f"its version is {version}; 1 is read", "Make the pair anew with preprocess_data")
    if code not in DTYPES:
        raise DataError(str(path), f"its ids have the type code {code}", f"Types read: {sorted(DTYPES)}")
    plain = _HEADER.size + 12 * count + 8 * borders
    if size not in (plain, plain + count):
        raise _damaged(path, f"it states {count} sequences and {borders} borders: {plain} bytes, it holds {size}")
    if not borders and count:
        raise _damaged(path, "it states sequences and no document")
    return DTYPES[code], count, borders, size == plain + count and count > 0


def _piece(raw: np.ndarray, place: int, dtype: np.dtype, count: int) -> tuple[np.ndarray, int]:
    end = place + count * dtype.itemsize
    return raw[place:end].view(dtype) if count else np.zeros(0, dtype), end


def _damaged(path: Path, fault: str) -> DataError:
    return DataError(str(path), f"the file is damaged: {fault}", "Copy it again, or make the pair anew")


def _parts(file: IO[bytes], dtype: str) -> Iterator[np.ndarray]:
    file.seek(0)
    while raw := file.read(_PART * 4):
        yield np.frombuffer(raw, dtype)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    source.seek(0)
    while raw := source.read(mmap.PAGESIZE * 256):
        target.write(raw)
