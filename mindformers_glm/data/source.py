"""Bytes and text of a data file, unpacked; files that are something else are told for what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".feather")
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_PACKED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz"}  # first bytes -> suffix
_BLOCK = 1 << 20
_HEAD, _MARK = 512, b"\xef\xbb\xbf"  # bytes that tell what a file is; the mark of UTF-8
UNPACKED_AT_LEAST, _UNPACKED_TIMES = 1 << 28, 200  # a packed file may unpack to 256 MB, or to 200 times its size
_OPTIONS = {"train": "--train_dataset_dir", "eval": "--eval_dataset_dir"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 5
_OTHER_LOADERS = {
    ".mindrecord": "MindRecord rows are token ids already: set data_loader.type: MindDataset",
    ".npy": "Rows of token ids: set data_loader.type: TokenDataLoader with CausalLanguageModelDataset",
}
_UNREAD = {
    ".xlsx": "Save the table as CSV UTF-8, or as JSON lines",
    ".xls": "Save the table as CSV UTF-8, or as JSON lines",
    ".zst": "Unpack it first: zstd -d FILE",
    ".zip": "Unpack it first: unzip FILE",
    ".7z": "Unpack it first: 7z x FILE",
    ".rar": "Unpack it first: unrar x FILE",
    ".tar": "Unpack it first: tar -xf FILE",
    ".tgz": "Unpack it first: tar -xzf FILE",
}


def option_of(phase: str) -> str:
    """The command line's option that names the data of a phase."""
    return _OPTIONS.get(phase, "--train_dataset_dir")


def data_file(path: str | Path, phase: str) -> Path:
    """The path when it is a file with something in it that may be read.

    Raises:
        ConfigError: no path is given.
        DataError: the path is missing, a folder, no regular file, empty, or may not be read.
    """
    option = option_of(phase)
    if not path:
        raise ConfigError("data_loader.dataset_dir", path, f"Name the data file: {option} FILE.")
    file = user_path(path)
    try:
        if file.is_dir():
            inside = sorted(item.name for item in file.iterdir() if suffix_of(item) in SUFFIXES)
            hint = f"; it holds {', '.join(inside[:_SHOWN])}" if inside else ""
            raise DataError(str(file), f"this is a folder{hint}", f"Name the file itself: {option} {file}/FILE.json")
        if not file.exists():
            raise DataError(str(file), "there is no such data file", f"Give its path: {option} FILE")
        if not file.is_file():
            raise DataError(str(file), "this is no regular file (a pipe or a device)", "Save the data to a file first")
        if file.stat().st_size == 0:
            raise DataError(str(file), "the data file is empty", f"Give another one: {option} FILE")
        with file.open("rb"):
            return file
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(file, error) from error


def suffix_of(file: Path) -> str:
    """The suffix in lower case that says what a file holds; that of compression is left out."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a data file as a stream, unpacked where it is compressed, after a byte-order mark.

    Raises:
        DataError: the file may not be read, is damaged, or is something else: a git-lfs pointer, a web page, an
            archive, a spreadsheet, UTF-16, not text at all.
    """
    try:
        with file.open("rb") as plain, _unpacking(plain) as source:
            head = source.read(_HEAD)
            _refuse_others(file, head)
            source.seek(len(_MARK) if head.startswith(_MARK) else 0)
            yield source
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(str(file), f"the compressed file is damaged ({error})", "Copy or download it again") from error
    except OSError as error:
        if error.errno is None:  # bz2 has no error of its own
            fault = f"the compressed file is damaged ({error})"
            raise DataError(str(file), fault, "Copy or download it again") from error
        raise _unreadable(file, error) from error


def read_data(file: Path) -> bytes:
    """All bytes of a data file; see `opened`.

    Raises:
        DataError: as there, and where a compressed file unpacks to far more than its size.
    """
    with opened(file) as source:
        if isinstance(source, io.BufferedReader):
            return source.read()
        return _unpacked(file, source)


def _unpacking(plain: IO[bytes]) -> Any:
    """The stream that unpacks a file, told by its first bytes; the file itself where it is not packed."""
    head = plain.read(8)
    plain.seek(0)
    packed = next((suffix for start, suffix in _PACKED.items() if head.startswith(start)), None)
    return nullcontext(plain) if packed is None else _OPENERS[packed](plain)


def lines_of(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without their ends; a line feed ends one, alone or after a carriage return."""
    for number, line in enumerate(raw.split(b"\n"), 1):
        yield number, line.removesuffix(b"\r")


def decoded(file: Path, raw: bytes) -> str:
    """The text of a file that is of use only as a whole.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, raw, f"not UTF-8 at byte {error.start}") from error


def refuse_encoding(file: Path, raw: bytes) -> None:
    """Raises DataError where most lines that are not plain ASCII are not UTF-8: the file has another encoding."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        lines = [line for _, line in lines_of(raw) if not line.isascii()]
        bad = sum(not _is_utf8(line) for line in lines)
        if 2 * bad > len(lines):
            raise _not_utf8(file, raw, f"{bad} of {len(lines)} lines are not UTF-8") from None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(file: Path, raw: bytes, fault: str) -> DataError:
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return DataError(str(file), fault, "Save the file as UTF-8")
    fix = f"Save the file as UTF-8: iconv -f GB18030 -t UTF-8 {file.name} > {file.stem}_utf8{file.suffix}"
    return DataError(str(file), f"{fault}; it reads as GBK", fix)


def _unpacked(file: Path, source: IO[bytes]) -> bytes:
    limit = max(UNPACKED_AT_LEAST, _UNPACKED_TIMES * file.stat().st_size)
    parts, size = [], 0
    while part := source.read(_BLOCK):
        size += len(part)
        if size > limit:
            fault = f"it unpacks to more than {limit >> 20} MB, {_UNPACKED_TIMES} times its size"
            raise DataError(str(file), fault, "Unpack it yourself, if you trust it, and name the result")
        parts.append(part)
    return b"".join(parts)


def _refuse_others(file: Path, raw: bytes) -> None:
    head = raw[:_HEAD].removeprefix(_MARK).lstrip()
    place, suffix = str(file), suffix_of(file)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        fix = "Fetch the file itself where you cloned it: git lfs pull"
        raise DataError(place, "this is a git-lfs pointer, not the data", fix)
    if head[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        fix = "Look at it with a browser, and download the file again (its raw form, logged in where that is needed)"
        raise DataError(place, "this is a web page, not data", fix)
    if suffix in _OTHER_LOADERS:
        raise DataError(place, f"{suffix} is read by another loader", _OTHER_LOADERS[suffix])
    if raw[257:262] == b"ustar":
        raise DataError(place, "this is an archive (tar)", "Unpack it (tar -xf FILE) and name the file in it")
    if suffix in _UNREAD:
        raise DataError(place, f"{suffix} is not read here, only {', '.join(SUFFIXES)}, also .gz", _UNREAD[suffix])
    if head.startswith(b"PK\x03\x04"):
        raise DataError(place, "this is a zip archive or a spreadsheet", "Unpack it, or save the table as CSV UTF-8")
    zeros = raw[:_HEAD].count(0)
    if raw[:2] in _UTF_16 or (zeros and raw[:2].count(0) == 1):
        fix = f"Save the file as UTF-8: iconv -f UTF-16 -t UTF-8 {file.name} > {file.stem}_utf8{file.suffix}"
        raise DataError(place, "not UTF-8 but UTF-16", fix)
    if zeros:
        fix = f"Give {', '.join(SUFFIXES)}, also .gz"
        raise DataError(place, "this is not text (it holds zero bytes)", fix)


def _unreadable(file: Path, error: Exception) -> DataError:
    if isinstance(error, PermissionError):
        fix = f"Give yourself the right to read it: chmod u+r {file.name}"
        return DataError(str(file), "this file may not be read (permission denied)", fix)
    reason = getattr(error, "strerror", None) or error
    return DataError(str(file), f"cannot be read ({reason})", "Give the path of a data file")
