"""The vocabulary in a GGUF file as the files of an official tokenizer: a sentencepiece model, or tiktoken's ranks.

tokenizer.ggml.model "llama" is sentencepiece: tokens, scores and types are its pieces. "gpt2" is byte-level BPE, whose
tokens are bytes spelled as printable characters; their numbers are tiktoken's ranks.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.formats.tensor_file import damaged
from mindformers_glm.errors import CheckpointError

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_BPE = 2  # model_type of sentencepiece's TrainerSpec
_FILE = "tokenizer.model"


def vocabulary_of(path: Path, values: dict[str, Any], network: dict[str, Any]) -> Callable[[], dict[str, bytes]] | None:
    """What makes the tokenizer's files from the metadata; None where it has none that is read here."""
    kind, tokens = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return None
    if kind == "llama":
        return partial(_sentencepiece, path, values, tokens)
    return partial(_ranks, path, values, tokens) if kind == "gpt2" else None


def _sentencepiece(path: Path, values: dict[str, Any], tokens: Sequence[str]) -> dict[str, bytes]:
    scores, types = (values.get(f"tokenizer.ggml.{key}") for key in ("scores", "token_type"))
    if scores is None or types is None or not len(scores) == len(types) == len(tokens):
        raise damaged(path, "its vocabulary has not one score and type for each token")
    last = max((index for index, kind in enumerate(types) if kind in (_NORMAL, _BYTE)), default=-1)
    pieces = [
        _field(1, _field(1, token.encode("utf-8", "surrogateescape")) + _float(2, score) + _number(3, int(kind)))
        for token, score, kind in list(zip(tokens, scores, types, strict=True))[: last + 1]
    ]
    has_bytes = any(kind == _BYTE for kind in types)
    trainer = _number(3, _BPE) + _number(35, int(has_bytes))
    charsmap = values.get("tokenizer.ggml.precompiled_charsmap")
    prefix = int(bool(values.get("tokenizer.ggml.add_space_prefix", True)))
    remove = int(bool(values.get("tokenizer.ggml.remove_extra_whitespaces", False)))
    normalizer = b"" if charsmap is None else _field(2, charsmap.tobytes())
    normalizer += _number(3, prefix) + _number(4, remove) + _number(5, 1)
    return {_FILE: b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)}


def _ranks(path: Path, values: dict[str, Any], tokens: Sequence[str]) -> dict[str, bytes]:
    types = values.get("tokenizer.ggml.token_type")
    if types is None or len(types) != len(tokens):
        raise damaged(path, "its vocabulary has not one type for each token")
    table = byte_of_character()
    lines = []
    for rank, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind != _NORMAL:
            break
        try:
            content = bytes(table[character] for character in token)
        except KeyError as error:
            fault = f"token {rank} of its vocabulary is not spelled in bytes"
            raise CheckpointError(str(path), fault, "Give the tokenizer of the model (--tokenizer).") from error
        lines.append(base64.b64encode(content) + b" %d\n" % rank)
    return {_FILE: b"".join(lines)}


def byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level BPE stands for: printable ones themselves, others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
