"""GGUF files of the architectures chatglm and glm4 (llama.cpp): metadata, then the table of tensors, then their data.

Little-endian, version 2 or 3: "GGUF", u32 version, u64 tensors, u64 entries; each entry a name, a type, a value; each
tensor a name, u32 axes, u64 sizes (columns first), u32 type, u64 offset from the end of the table, which is aligned
(general.alignment, 32). Weights have the rows of the official models. Sources: docs/gguf.md of ggml; the classes
ChatGLMModel and Glm4Model of llama.cpp's convert_hf_to_gguf.py; src/llama-model.cpp.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from mindformers_glm.checkpoint.formats.ggml_blocks import GGML_TYPES
from mindformers_glm.checkpoint.formats.ggml_file import Stored, ggml_tensors
from mindformers_glm.checkpoint.formats.gguf_vocabulary import vocabulary_of
from mindformers_glm.checkpoint.formats.tensor_file import MOST_TENSORS, TensorFile, damaged
from mindformers_glm.errors import CheckpointError, shorten
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.naming import from_gguf

MAGIC = b"GGUF"
_ALIGNMENT = 32
_MOST_ENTRIES, _NAME_BYTES, _MOST_AXES, _MOST_ITEMS, _TEXT_BYTES = 10_000, 1000, 4, 2_000_000, 16 << 20
_TABLE_BYTES = 256 << 20  # of metadata and tensors; 151,552 token texts take 4 MB
_NUMBERS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
_NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
_TEXT, _LIST = 8, 9
_PUBLISHED = {"chatglm2": "chatglm2-6b", "chatglm3": "chatglm3-6b", "glm4": "glm-4-9b"}  # family -> its name

_PART = re.compile(r"(.*\.self_attn\.)[qkv]_proj(\.\w+)")


def open_gguf(path: str | Path) -> TensorFile:
    """The table of a GGUF file under the names of the official models (or of transformers' own, where it splits qkv).

    Raises:
        CheckpointError: another architecture, a type of numbers that is not read, or a damaged file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        reader = Reader(file, path)
        if file.read(4) != MAGIC:
            raise damaged(path, "no GGUF file")
        version = reader.number("<u4")
        if version not in (2, 3):
            fix = "Versions 2 and 3 (little-endian) are read: convert it with a current llama.cpp."
            raise CheckpointError(str(path), f"a GGUF file of version {version}", fix)
        tensors, entries = reader.number("<u8"), reader.number("<u8")
        if tensors > MOST_TENSORS or entries > _MOST_ENTRIES:
            raise damaged(path, f"the GGUF header announces {tensors:,} tensors and {entries:,} entries")
        values = reader.entries(entries)
        _check_architecture(path, values)
        stored = [reader.tensor() for _ in range(tensors)]
        alignment = values.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise damaged(path, f"its alignment is {shorten(alignment)}")
        base = -(-file.tell() // alignment) * alignment
    stored = [one._replace(start=base + one.start) for one in stored]
    network = network_of(path, values, stored)
    is_split = any(one.name.endswith(".attn_q.weight") for one in stored) or network["model_type"] != "chatglm"
    table = ggml_tensors(path, "gguf", _alike([_renamed(one, is_split) for one in stored]), reader.size)
    table.network = network
    table.vocabulary = vocabulary_of(path, values, network)
    return table


class Reader:
    """Values of the table, each size compared with what is left of the file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self._limit = min(self.size, _TABLE_BYTES)

    def number(self, kind: str) -> Any:
        """The next number, of a NumPy type."""
        return np.frombuffer(self.bytes(np.dtype(kind).itemsize), kind)[0].item()

    def bytes(self, count: int) -> bytes:
        """The next bytes; fewer are an error."""
        if count < 0 or self.file.tell() + count > self._limit:
            raise damaged(self.path, f"the GGUF table needs {count:,} bytes more than there are")
        return self.file.read(count)

    def text(self, limit: int = _TEXT_BYTES) -> str:
        """The next text; bytes that are no UTF-8 are kept as surrogates."""
        length = self.number("<u8")
        if length > limit:
            raise damaged(self.path, f"a text of {length:,} bytes in the GGUF table")
        return self.bytes(length).decode("utf-8", "surrogateescape")

    def entries(self, count: int) -> dict[str, Any]:
        """The next `count` pairs of name and value."""
        values: dict[str, Any] = {}
        for _ in range(count):
            name = self.text(_NAME_BYTES)
            if name in values:
                raise damaged(self.path, f"the GGUF table has {shorten(name)} twice")
            values[name] = self.value(self.number("<u4"))
        return values

    def value(self, kind: int) -> Any:
        """The next value, of a type of GGUF: a number, a text, or a list of either."""
        if kind == _TEXT:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _LIST:
            raise damaged(self.path, f"a value of the unknown type {kind} in the GGUF table")
        inner, count = self.number("<u4"), self.number("<u8")
        if count > _MOST_ITEMS or inner not in (_TEXT, *_NUMBERS):
            raise damaged(self.path, f"a list of {count:,} values of type {inner} in the GGUF table")
        if inner == _TEXT:
            return [self.text() for _ in range(count)]
        return np.frombuffer(self.bytes(count * np.dtype(_NUMBERS[inner]).itemsize), _NUMBERS[inner])

    def tensor(self) -> Stored:
        """What the table says of the next tensor."""
        name, axes = self.text(_NAME_BYTES), self.number("<u4")
        if not 0 < axes <= _MOST_AXES:
            raise damaged(self.path, f"tensor {shorten(name)} has {axes:,} axes")
        shape = struct.unpack(f"<{axes}Q", self.bytes(8 * axes))
        return Stored(name, self.number("<u4"), tuple(reversed(shape)), self.number("<u8"))


def _check_architecture(path: Path, values: dict[str, Any]) -> None:
    kind, parts = values.get("general.architecture"), values.get("split.count", 1)
    if parts != 1:
        fault = f"one of {shorten(parts)} parts of a GGUF file"
        raise CheckpointError(str(path), fault, "Join them: llama-gguf-split --merge FIRST_PART OUT.gguf.")
    if kind not in ("chatglm", "glm4"):
        fault = f"a GGUF file of the architecture {shorten(kind)}"
        raise CheckpointError(str(path), fault, "chatglm and glm4 are read: the dense models of the GLM family.")


def network_of(path: Path, values: dict[str, Any], stored: list[Stored]) -> dict[str, Any]:
    """The metadata as a config.json: the official one, or that of transformers for networks which only that has."""
    kind = values["general.architecture"]
    names = {one.name for one in stored}

    def told(key: str, default: Any = None) -> Any:
        value = values.get(f"{kind}.{key}", default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise damaged(path, f"{kind}.{key} is {shorten(value)}")
        return value

    if any(np.atleast_1d(values.get(f"{kind}.rope.dimension_sections", 0))):
        raise CheckpointError(str(path), "a GGUF file of a model of pictures and text", "Only text models are read.")
    rows = next((one.shape[0] for one in stored if one.name == "token_embd.weight"), 0)
    heads, hidden = told("attention.head_count"), told("embedding_length")
    channels = told("attention.key_length", hidden // heads if type(heads) is type(hidden) is int else None)
    rotary = told("rope.dimension_count", channels // 2) / channels
    theta, scaling = told("rope.freq_base", 10000.0), values.get(f"{kind}.rope.scaling.type", "none")
    sizes = {
        "num_attention_heads": heads,
        "hidden_size": hidden,
        "attention_bias": any(".attn_q" in name and name.endswith(".bias") for name in names),
        "eos_token_id": int(values.get("tokenizer.ggml.eos_token_id", 2)),
        "pad_token_id": int(values.get("tokenizer.ggml.padding_token_id", 0)),
        "torch_dtype": "float16",
    }
    epsilon = float(f"{told('attention.layer_norm_rms_epsilon', 1e-5):.7g}")  # the decimal whose float32 it is
    long = _scaling(path, scaling, values, kind)
    tied = "output.weight" not in names
    if kind == "glm4" or tied or rotary != 0.5 or ("factor" in long and long.get("rope_type") == "yarn"):
        return {
            "model_type": "glm4" if kind == "glm4" else "glm",
            **sizes,
            "_name_or_path": values.get("general.name") if isinstance(values.get("general.name"), str) else None,
            "num_hidden_layers": told("block_count"),
            "vocab_size": rows,
            "intermediate_size": told("feed_forward_length"),
            "head_dim": channels,
            "num_key_value_heads": told("attention.head_count_kv", heads),
            "max_position_embeddings": told("context_length"),
            "rms_norm_eps": epsilon,
            "rope_theta": theta,
            "partial_rotary_factor": rotary,
            "tie_word_embeddings": tied,
            **({"rope_scaling": long} if long else {}),
        }
    sizes["add_qkv_bias"] = sizes.pop("attention_bias")
    if long:  # positions divided, as ChatGLM2-32k
        sizes |= {"rope_ratio": long["factor"], "rope_method": "linear"}
    elif theta != 10000:
        sizes |= {"rope_ratio": theta / 10000, "rope_method": "base"}
    return {
        "model_type": "chatglm",
        "_name_or_path": _family(values, rows),
        **sizes,
        "num_layers": told("block_count"),
        "padded_vocab_size": rows,
        "ffn_hidden_size": told("feed_forward_length"),
        "kv_channels": channels,
        "multi_query_attention": True,
        "multi_query_group_num": told("attention.head_count_kv", heads),
        "seq_length": told("context_length"),
        "layernorm_epsilon": epsilon,
    }


def _scaling(path: Path, kind: Any, values: dict[str, Any], architecture: str) -> dict[str, Any]:
    factor = values.get(f"{architecture}.rope.scaling.factor", 1.0)
    if kind == "none" or factor == 1:
        return {}
    if kind not in ("linear", "yarn") or not isinstance(factor, float | int):
        raise CheckpointError(str(path), f"rope.scaling.type is {shorten(kind)}", "none, linear and yarn are read.")
    original = values.get(f"{architecture}.rope.scaling.original_context_length")
    return {"rope_type": kind, "factor": factor, **({"original_max_position_embeddings": original} if original else {})}


def _family(values: dict[str, Any], rows: int) -> str:
    """A name of the family, which the network's sizes do not tell."""
    given = {"model_type": "chatglm", "padded_vocab_size": rows, "_name_or_path": values.get("general.name")}
    named = FAMILIES.of_config(given).name
    if named == "chatglm2" and values.get("tokenizer.ggml.pre") == "chatglm-spm":
        named = "chatglm3"
    return _PUBLISHED.get(named, _PUBLISHED["chatglm2"])


def _renamed(one: Stored, is_split: bool) -> Stored:
    return one._replace(name=from_gguf(one.name, is_split=is_split) or one.name)


def _alike(stored: list[Stored]) -> list[Stored]:
    """The tensors, where query, key and value of one layer have several types all of them float32."""
    types: dict[str, set[str]] = {}
    for one in stored:
        if one.kind in GGML_TYPES and (found := _PART.fullmatch(one.name)):
            types.setdefault(found.group(1) + found.group(2), set()).add(GGML_TYPES[one.kind].plain)
    mixed = {name for name, kinds in types.items() if len(kinds) > 1}
    return [
        one._replace(wide=True)
        if (found := _PART.fullmatch(one.name)) and found.group(1) + found.group(2) in mixed
        else one
        for one in stored
    ]
