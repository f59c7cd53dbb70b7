"""A GGUF file of a network for llama.cpp: architecture chatglm, or glm4 where a block has four norms.

Matrices are stored as the type that is asked for, norms and biases as float32. With q4_0 the output layer has q8_0: in
4 bits it would lose as much as all blocks together. The sentencepiece vocabulary goes inside; of byte-level
vocabularies (GLM-4) the file says no_vocab, and programs give ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.checkpoint.convert.arrays import Source
from mindformers_glm.checkpoint.convert.checks import check_complete
from mindformers_glm.checkpoint.convert.run import float_rows
from mindformers_glm.checkpoint.formats.blocks import BLOCK_BYTES, converted
from mindformers_glm.checkpoint.formats.folder import disk_fault
from mindformers_glm.checkpoint.formats.ggml_blocks import BY_GGML_NAME, GgmlType, quantised
from mindformers_glm.checkpoint.formats.gguf_write import GgufTensor, Value, padded, table_bytes
from mindformers_glm.checkpoint.load.names import is_adapter
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import atomic_write
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import expected_shapes, gguf_name, is_head
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.tokenizers.files import VOCABULARY, kind

TYPES = ("f16", "f32", "bf16", "q8_0", "q4_0")
_SAME = {"fp16": "f16", "float16": "f16", "fp32": "f32", "float32": "f32", "bfloat16": "bf16"}
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
_WIDTH = 32  # columns of a block
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_FIXED = {  # what llama.cpp's network is: key -> the value
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "multi_query_attention": True,
    "apply_residual_connection_post_layernorm": False,
    "quantization_bit": 0,
}


class GgufPlan(NamedTuple):
    """What will be written: (our name, tensor, type) in the order of the file."""

    source: Source
    out: Path
    values: list[Value]
    tensors: list[tuple[str, GgufTensor, GgmlType]]
    has_vocabulary: bool

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(padded(tensor.size) for _, tensor, _ in self.tensors)


def plan_gguf(
    source: Source, config: NetworkConfig, out: str | Path, *, dtype: str | None = None, tokenizer: Path | None = None
) -> GgufPlan:
    """The plan of a GGUF file; nothing is written. `dtype` is one of TYPES (f16), or another name of a float type.

    Raises:
        CheckpointError: the weights are not those of `config`, or have an adapter.
        ConfigError: a type that is not written, or a network that llama.cpp does not have.
    """
    form = _SAME.get(dtype or "f16", dtype or "f16")
    if form not in TYPES:
        raise ConfigError("dtype", dtype, f"Use one of {', '.join(TYPES)}.")
    for key, works in _FIXED.items():
        if getattr(config, key) != works:
            raise ConfigError(key, getattr(config, key), f"llama.cpp's network has {works}.")
    if config.rope_scaling is not None or config.pre_seq_len:
        raise ConfigError("rope_scaling", config.rope_scaling, "Neither it nor a prefix is written to GGUF.")
    if config.post_self_attn_layernorm != config.post_mlp_layernorm:
        raise ConfigError("post_mlp_layernorm", config.post_mlp_layernorm, "llama.cpp's glm4 has both norms.")
    if any(is_adapter(name) for name in source.names):
        fix = "Merge its adapter first with tools/merge_lora.py."
        raise CheckpointError(str(source.path), "it has adapter tensors, for which GGUF has no place", fix)
    check_complete(source, source.names, config)
    config = config.settled()
    tensors = [_tensor(name, shape, form) for name, shape in expected_shapes(config).items()]
    values = _values(config, form, Path(out).stem)
    vocabulary = _vocabulary(tokenizer, config.padded_vocab_size)
    return GgufPlan(source, Path(out), [*values, *vocabulary], tensors, len(vocabulary) > 1)


def write_gguf(plan: GgufPlan, *, overwrite: bool = False, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Writes the file, a few rows at a time; it appears whole or not at all.

    Raises:
        CheckpointError: something is at its place, the disk is full, or a number is not finite.
    """
    out = plan.out
    if out.is_dir() or (out.exists() and not overwrite):
        raise CheckpointError(str(out), "it exists already", "Choose another name, or allow overwriting it.")
    try:
        with atomic_write(out) as file:
            file.write(table_bytes(plan.values, [tensor for _, tensor, _ in plan.tensors]))
            for name, tensor, form in plan.tensors:
                written = 0
                for block in _blocks(plan.source, name, tensor, form):
                    data = np.ascontiguousarray(block).data.cast("B")
                    file.write(data)
                    written += len(data)
                    progress(len(data))
                file.write(bytes(padded(written) - written))
    except OSError as error:
        raise disk_fault(out, error) from error
    return out


def _tensor(name: str, shape: tuple[int, ...], form: str) -> tuple[str, GgufTensor, GgmlType]:
    stored = form if len(shape) > 1 else "f32"
    if stored == "q4_0" and is_head(name):
        stored = "q8_0"
    if stored.startswith("q") and shape[-1] % _WIDTH:
        raise ConfigError("dtype", form, f"{name} has {shape[-1]} columns, no multiple of {_WIDTH}. Use f16.")
    number, made = BY_GGML_NAME[stored]
    size = int(np.prod(shape, dtype=np.int64)) // made.columns * made.size
    return name, GgufTensor(gguf_name(name), shape, number, size), made


def _blocks(source: Source, name: str, tensor: GgufTensor, form: GgmlType) -> Iterator[np.ndarray]:
    rows = tensor.shape[0]
    if form.plain:
        blocks = source.blocks(name, 0, rows)
        yield from converted(blocks, source.dtype(name), form.plain, name=name, place=source.path)
        return
    step = max(1, BLOCK_BYTES // (4 * tensor.shape[1]))
    for start in range(0, rows, step):
        yield quantised(float_rows(source, name, start, min(start + step, rows)), form)


def _values(config: NetworkConfig, form: str, name: str) -> list[Value]:
    kind_ = "glm4" if config.post_self_attn_layernorm else "chatglm"
    linear = config.rope_ratio != 1 and config.rope_method == "linear"
    theta = 10000.0 if linear else 10000.0 * config.rope_ratio
    channels = config.kv_channels
    values = [
        Value("general.architecture", "text", kind_),
        Value("general.name", "text", name),
        Value(f"{kind_}.context_length", "uint32", config.seq_length),
        Value(f"{kind_}.embedding_length", "uint32", config.hidden_size),
        Value(f"{kind_}.feed_forward_length", "uint32", config.ffn_hidden_size),
        Value(f"{kind_}.block_count", "uint32", config.num_layers),
        Value(f"{kind_}.attention.head_count", "uint32", config.num_attention_heads),
        Value(f"{kind_}.attention.head_count_kv", "uint32", config.num_kv_heads),
        Value(f"{kind_}.attention.layer_norm_rms_epsilon", "float32", config.layernorm_epsilon),
        Value(f"{kind_}.rope.dimension_count", "uint32", int(channels * config.rotary_percent)),
        Value(f"{kind_}.rope.freq_base", "float32", theta),
        Value(f"{kind_}.vocab_size", "uint32", config.padded_vocab_size),
    ]
    if channels * config.num_attention_heads != config.hidden_size:
        values += [Value(f"{kind_}.attention.{key}_length", "uint32", channels) for key in ("key", "value")]
    if linear:
        values.append(Value(f"{kind_}.rope.scaling.type", "text", "linear"))
        values.append(Value(f"{kind_}.rope.scaling.factor", "float32", config.rope_ratio))
    values.append(Value("general.file_type", "uint32", _FILE_TYPES[form]))
    values.append(Value("general.quantization_version", "uint32", 2))
    values.append(Value("tokenizer.ggml.add_bos_token", "bool", False))
    return values


def _vocabulary(folder: Path | None, rows: int) -> list[Value]:
    """The entries of a sentencepiece vocabulary, padded to the rows of the embedding; no_vocab for others."""
    if folder is None or not (folder / VOCABULARY).is_file() or kind(folder / VOCABULARY) != "sentencepiece":
        return [Value("tokenizer.ggml.model", "text", "no_vocab")]
    tokenizer = tokenizer_from(folder)
    model = _sentencepiece(folder / VOCABULARY)
    tokens = [piece.piece for piece in model.pieces]
    scores = [float(piece.score) for piece in model.pieces]
    types = [int(piece.type) for piece in model.pieces]
    specials = {number: name for name, number in tokenizer.get_vocab().items() if number >= len(tokens)}
    for number in range(len(tokens), rows):
        is_named = number in specials
        tokens.append(specials[number] if is_named else f"[PAD{number}]")
        scores.append(-1000.0)
        types.append(_CONTROL if is_named else _UNUSED)
    spec = model.normalizer_spec
    charsmap = np.frombuffer(spec.precompiled_charsmap, np.uint8)
    values = [
        Value("tokenizer.ggml.model", "text", "llama"),
        Value(
            "tokenizer.ggml.pre",
            "text",
            "chatglm-spm" if tokenizer.rules.has_roles else "default",
        ),
        Value("tokenizer.ggml.tokens", "text", tokens),
        Value("tokenizer.ggml.scores", "float32", scores),
        Value("tokenizer.ggml.token_type", "int32", types),
        Value("tokenizer.ggml.add_space_prefix", "bool", bool(spec.add_dummy_prefix)),
        Value("tokenizer.ggml.remove_extra_whitespaces", "bool", bool(spec.remove_extra_whitespaces)),
        Value("tokenizer.ggml.eos_token_id", "uint32", tokenizer.eos_token_id),
        Value("tokenizer.ggml.unknown_token_id", "uint32", 0),
        Value("tokenizer.ggml.padding_token_id", "uint32", tokenizer.pad_token_id),
    ]
    if charsmap.size:
        values.append(Value("tokenizer.ggml.precompiled_charsmap", "uint8", charsmap))
    return values


def _sentencepiece(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2  # noqa: PLC0415 - needs protobuf, and only here

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(path.read_bytes())
    return model
