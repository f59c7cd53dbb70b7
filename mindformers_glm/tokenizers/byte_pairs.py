"""Byte-level BPE vocabularies: the tiktoken ranks of GLM-4 (tokenizer.model), and Hugging Face's tokenizer.json.

The libraries `tiktoken` and `tokenizers` do the merging. Files are read as data: no code, no pickle, no network.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError, DataError, DeviceError, UserError, shown
from mindformers_glm.files import parse_json, read_small

# How GLM-4 cuts text before merging bytes (tokenization_chatglm.py of glm-4-9b-chat).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LARGEST = 64 << 20  # bytes of a vocabulary file; GLM-4's have 2.6 MB and 20 MB
_MOST_RANKS = 1 << 20
_REPAIR = "Give the tokenizer.model or tokenizer.json of the checkpoint"


class BytePairs:
    """Pieces that are bytes, then special tokens that no text can spell.

    The same questions are answered as by `Vocabulary`; ids `0 .. text_size - 1` are text.
    """

    leading_space = "kept"
    bos = -1

    def __init__(self, path: Path, pieces: Sequence[bytes], specials: dict[str, int], encoder: Any) -> None:
        self.path, self._pieces, self._encoder = path, list(pieces), encoder
        self.text_size = len(self._pieces)
        self.special_ids = dict(specials)
        self.special_names = {index: name for name, index in specials.items()}
        self.special_start = min(specials.values(), default=self.text_size)
        self.size = max([self.text_size - 1, *specials.values()]) + 1
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self.eos = self.special_ids.get("<|endoftext|>", -1)
        self.unk = self.eos
        if self.eos < 0:
            raise DataError(str(path), "the vocabulary has no <|endoftext|>", "Is it the file of a GLM?")

    @cached_property
    def pieces(self) -> list[str]:
        """Every piece as text; other bytes in hexadecimal, after a backslash."""
        return [piece.decode("utf-8", "backslashreplace") for piece in self._pieces]

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Never a special token, whatever the text says."""
        return self._encoder.encode(text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8"))

    def encode_many(self, texts: Iterable[str], *, threads: int = 1) -> list[list[int]]:
        """Ids of several texts."""
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        """(id, begin, end) of each piece; the last two count bytes of the text in UTF-8."""
        found, end = [], 0
        for index in self.encode(text):
            begin, end = end, end + len(self._pieces[index])
            found.append((index, begin, end))
        return found

    def decode(self, ids: Iterable[int], *, show_specials: bool = False) -> str:
        """Text of ids, broken characters as U+FFFD. Ids without text (special, beyond the vocabulary) give nothing."""
        parts = []
        for index in map(int, ids):
            if 0 <= index < self.text_size:
                parts.append(self._pieces[index])
            elif show_specials and index in self.special_names:
                parts.append(self.special_names[index].encode())
        return b"".join(parts).decode("utf-8", "replace")

    def written(self, index: int, *, show_specials: bool = False) -> str:
        """The piece of an id where it is text; empty for ids without text."""
        if 0 <= index < self.text_size:
            return self._pieces[index].decode("utf-8", "replace")
        return self.special_names.get(index, "") if show_specials else ""

    def is_special(self, index: int) -> bool:
        """True for ids that are no piece of text."""
        return not 0 <= index < self.text_size

    def bytes_of(self, index: int) -> bytes | None:
        """The bytes of a piece of text, None for every other id."""
        return self._pieces[index] if 0 <= index < self.text_size else None

    def piece_id(self, piece: str) -> int:
        """The id of a piece; that of unk where there is none."""
        return self._ids.get(piece.encode("utf-8", "surrogatepass"), self.unk)


def read_ranks(path: Path, specials: Sequence[str], *, special_start: int | None = None) -> BytePairs:
    """The vocabulary of a tiktoken file, with special tokens after its last rank in the order given.

    Raises:
        DataError: no such file, or damaged.
        DeviceError: the package tiktoken is not installed.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_content(path).splitlines(), 1):
        if not line.strip():
            continue
        word, _, rank = line.strip().partition(b" ")
        piece = _decoded(word)
        if piece is None or not piece or not rank.isdigit() or int(rank) >= _MOST_RANKS or piece in ranks:
            raise DataError(f"{path}:{number}", "this is no rank of a tiktoken vocabulary", f"{_REPAIR} again")
        ranks[piece] = int(rank)
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        fault = f"its {len(ranks):,} ranks have gaps, or lack some of the 256 bytes: it is cut short or damaged"
        raise DataError(str(path), fault, f"{_REPAIR} again")
    start = len(ranks) if special_start is None else special_start
    if start < len(ranks):
        fix = f"The file holds {len(ranks)} pieces; special tokens can start there or later."
        raise ConfigError("tokenizer.special_start", start, fix)
    tiktoken = _package("tiktoken")
    merging = tiktoken.Encoding("glm4", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    named = {name: start + place for place, name in enumerate(specials)}
    return BytePairs(path, sorted(ranks, key=ranks.__getitem__), named, _Ranks(merging))


def read_json_vocabulary(path: Path) -> BytePairs:
    """The vocabulary of a tokenizer.json: byte-level BPE with its added tokens as special ones.

    Raises:
        DataError: no such file, damaged, or another kind of tokenizer.
        DeviceError: the package tokenizers is not installed.
    """
    content = _content(path)
    try:
        given = parse_json(content)
        model, added = given["model"], given.get("added_tokens") or []
        specials = {str(token["content"]): int(token["id"]) for token in added}
        vocabulary = {str(piece): int(index) for piece, index in model["vocab"].items()}
        kind = model.get("type", "BPE")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"the key {error} is missing" if isinstance(error, KeyError) else "a part is not as it must be"
        told = str(error) if type(error) is ValueError else told
        raise DataError(str(path), f"this is no tokenizer.json ({shown(told)})", f"{_REPAIR} again") from error
    texts = {piece: index for piece, index in vocabulary.items() if piece not in specials}
    if kind != "BPE" or sorted(texts.values()) != list(range(len(texts))) or min(specials.values(), default=0) < 0:
        fault = f"a {kind} of {len(texts):,} pieces with gaps is no vocabulary of a GLM"
        raise DataError(str(path), fault, f"{_REPAIR}: byte-level BPE, special tokens after its pieces")
    pieces = [_bytes(piece, path) for piece in sorted(texts, key=texts.__getitem__)]
    tokenizers = _package("tokenizers")
    try:
        merging = tokenizers.Tokenizer.from_str(content.decode("utf-8-sig"))
        merging.encode_special_tokens = True  # text never becomes a special token
        merging.no_padding()
        merging.no_truncation()
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception for every fault of the file
        raise DataError(str(path), f"the library refuses it ({str(error)[:150]})", f"{_REPAIR} again") from error
    return BytePairs(path, pieces, specials, _Json(merging))


class _Ranks:
    """tiktoken's merging, as `BytePairs` asks for it."""

    def __init__(self, merging: Any) -> None:
        self._merging = merging

    def encode(self, text: str) -> list[int]:
        return self._merging.encode_ordinary(text)


class _Json:
    """The merging of the library tokenizers, asked alike."""

    def __init__(self, merging: Any) -> None:
        self._merging = merging

    def encode(self, text: str) -> list[int]:
        return self._merging.encode(text, add_special_tokens=False).ids


def _letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte (GPT-2's table), reversed."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _letters()


def _bytes(piece: str, path: Path) -> bytes:
    try:
        return bytes(_LETTERS[letter] for letter in piece)
    except KeyError as error:
        fault = f"the piece {piece[:40]!r} is not written in bytes"
        raise DataError(str(path), fault, f"{_REPAIR}: byte-level BPE") from error


def _decoded(word: bytes) -> bytes | None:
    try:
        return base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        return None


def _content(path: Path) -> bytes:
    try:
        return read_small(path, limit=LARGEST)
    except UserError as error:
        raise DataError(str(path), "cannot be read as a vocabulary", str(error)) from error


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        fix = f"GLM-4's tokenizers need the package {name}: pip install 'mindformers_glm[glm4]'."
        raise DeviceError(fix) from error
