"""One-file models of chatglm.cpp ("ggml"): the network's sizes, the sentencepiece vocabulary, then the weights.

Little-endian: "ggml", i32 model type, i32 version, sizes, i32 length and bytes of the vocabulary; then until
the end of the file i32 length and name, i32 axes, sizes as PyTorch prints them, type, zeros to a multiple of 16 bytes,
data. Names are the official ones. Version 1 (to 0.3) has other sizes in the record than version 2 (0.4 and later).
Source: convert.py of li-plus/chatglm.cpp.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mindformers_glm.checkpoint.formats.ggml_file import Stored, ggml_tensors, read_some
from mindformers_glm.checkpoint.formats.tensor_file import MOST_TENSORS, Span, TensorFile, damaged
from mindformers_glm.errors import CheckpointError

MAGIC = b"ggml"
_KINDS = {2: "chatglm2-6b", 3: "chatglm3-6b", 4: "glm-4-9b"}
_OTHERS = {1: "ChatGLM-6B", 1024: "Baichuan-7B", 1025: "Baichuan-13B", 1280: "InternLM"}
_OLD = "dtype vocabulary hidden heads layers ffn length bos eos pad sep groups"
_NEW = "dtype vocabulary hidden heads groups layers ffn epsilon prefix theta length eos pad"
_ALIGNMENT, _MOST_AXES, _VOCABULARY_BYTES, _NAME_BYTES = 16, 4, 64 << 20, 1000


def open_chatglm_cpp(path: str | Path) -> TensorFile:
    """The table of a file of chatglm.cpp; its metadata tells the type of its matrices.

    Raises:
        CheckpointError: another model's, or damaged.
    """
    path = Path(path)
    with open(path, "rb") as file:
        limit = os.fstat(file.fileno()).st_size
        network = _network(file, path)
        length = _number(file, path)
        if not 0 <= length <= min(_VOCABULARY_BYTES, limit - file.tell()):
            raise damaged(path, f"its vocabulary has {length:,} bytes in a file of {limit:,}")
        place = Span(file.tell(), length)
        file.seek(length, os.SEEK_CUR)
        stored: list[Stored] = []
        while file.tell() < limit:
            if len(stored) == MOST_TENSORS:
                raise damaged(path, f"it has more than {MOST_TENSORS:,} tensors")
            stored.append(_tensor(file, path, limit))
    table = ggml_tensors(path, "chatglm.cpp", stored, limit)
    table.network = network
    if length:
        table.vocabulary = lambda: {"tokenizer.model": read_some(path, place)}
    return table


def _network(file: IO[bytes], path: Path) -> Mapping[str, Any]:
    """The record of sizes as an official config.json."""
    if file.read(4) != MAGIC:
        raise damaged(path, "no file of chatglm.cpp")
    kind, version = _number(file, path), _number(file, path)
    if kind not in _KINDS:
        fault = f"a file of chatglm.cpp that holds {_OTHERS.get(kind, f'a model of the unknown type {kind}')}"
        raise CheckpointError(str(path), fault, "ChatGLM2, ChatGLM3 and GLM-4 are read.")
    if version not in (1, 2):
        raise CheckpointError(str(path), f"version {version} of chatglm.cpp's files", "Versions 1 and 2 are read.")
    keys = (_OLD if version == 1 else _NEW).split()
    pattern = "<" + "".join("f" if key in ("epsilon", "theta") else "i" for key in keys)
    values = dict(zip(keys, struct.unpack(pattern, _exactly(file, struct.calcsize(pattern), path)), strict=True))
    if values["heads"] < 1 or values["hidden"] % values["heads"] or values.get("prefix", 0):
        told = f"hidden_size {values['hidden']}, {values['heads']} heads, prefix {values.get('prefix', 0)}"
        raise damaged(path, f"its sizes cannot be those of a network that is read here ({told})")
    theta = values.get("theta", 10000.0)
    long = {} if theta == 10000 else {"rope_ratio": theta / 10000, "rope_method": "base"}
    return {
        "model_type": "chatglm",
        "_name_or_path": _KINDS[kind],
        "num_layers": values["layers"],
        "padded_vocab_size": values["vocabulary"],
        "hidden_size": values["hidden"],
        "ffn_hidden_size": values["ffn"],
        "kv_channels": values["hidden"] // values["heads"],
        "num_attention_heads": values["heads"],
        "multi_query_attention": True,
        "multi_query_group_num": values["groups"],
        "seq_length": values["length"],
        "layernorm_epsilon": float(f"{values.get('epsilon', 1e-5):.7g}"),  # the decimal whose float32 it is
        **long,
        **{f"{key}_token_id": values[key] for key in ("eos", "pad") if values[key] >= 0},
        "torch_dtype": "float16",
    }


def _tensor(file: IO[bytes], path: Path, limit: int) -> Stored:
    length = _number(file, path)
    if not 0 < length <= _NAME_BYTES:
        raise damaged(path, f"the name of a tensor has {length:,} characters")
    name = _exactly(file, length, path).decode("utf-8", "replace")
    axes = _number(file, path)
    if not 0 < axes <= _MOST_AXES:
        raise damaged(path, f"tensor {name!r} has {axes:,} axes")
    *shape, kind = struct.unpack(f"<{axes + 1}i", _exactly(file, 4 * (axes + 1), path))
    start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    stored = Stored(name, kind, tuple(shape), start)
    file.seek(start + stored.checked_size(path, limit))
    return stored


def _number(file: IO[bytes], path: Path) -> int:
    return struct.unpack("<i", _exactly(file, 4, path))[0]


def _exactly(file: IO[bytes], count: int, path: Path) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise damaged(path, "the file ended in the middle of its table")
    return content
