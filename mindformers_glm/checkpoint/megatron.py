"""Megatron (mcore) folders as ModelLink writes them: `iter_0000001/mp_rank_TT[_PPP]/model_optim_rng.pt`.

Tensor ranks hold rows of query, key and value group by group (the heads of a group, its key, its value), and gate and
up each by its part; pipeline ranks hold neighbouring layers, numbered from 0 on each. Names are those of mcore with
local layers. Written from knowledge of the format; no ModelLink was at hand to read the files.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.dtypes import bits_of, name_of, typed
from mindformers_glm.checkpoint.source import WeightSource
from mindformers_glm.checkpoint.torch_bin import open_torch_bin
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

ITERATION, TRACKER, FILE = "iter_0000001", "latest_checkpointed_iteration.txt", "model_optim_rng.pt"
_LAYER = re.compile(r"^transformer\.encoder\.layers\.(\d+)\.")
_NAMES = {
    "transformer.embedding.embedding_table": "embedding.word_embeddings.weight",
    "transformer.encoder.final_layernorm.weight": "decoder.final_layernorm.weight",
    "transformer.output_layer.weight": "output_layer.weight",
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.query_key_value.weight": "self_attention.linear_qkv.weight",
    "self_attention.query_key_value.bias": "self_attention.linear_qkv.bias",
    "self_attention.dense.weight": "self_attention.linear_proj.weight",
    "post_attention_layernorm.weight": "pre_mlp_layernorm.weight",
    "mlp.dense_h_to_4h.weight": "mlp.linear_fc1.weight",
    "mlp.dense_4h_to_h.weight": "mlp.linear_fc2.weight",
}
_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}
_RANK = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?")


def is_megatron(path: str | Path) -> bool:
    """True for a folder with rank folders of Megatron in it, or in one of its iterations."""
    path = Path(path)
    return path.is_dir() and any(
        True for pattern in (f"mp_rank_*/{FILE}", f"*/mp_rank_*/{FILE}") for _ in path.glob(pattern)
    )


def check_division(config: ChatGLM2Config, tp: int, pp: int) -> None:
    """Raises CheckpointError when Megatron cannot divide the network so."""
    faults = {
        "multi_query_group_num": config.num_kv_heads % tp,
        "ffn_hidden_size": config.ffn_hidden_size % tp,
        "padded_vocab_size": config.padded_vocab_size % tp,
    }
    for name, rest in faults.items():
        if rest:
            fault = f"{tp} tensor ranks do not divide {name} ({getattr(config, name)})"
            raise CheckpointError("--tp", fault, "Megatron keeps whole groups on a rank: use fewer.")
    if config.num_layers % pp:
        fault = f"{pp} pipeline ranks do not divide num_layers ({config.num_layers})"
        raise CheckpointError("--pp", fault, "Use a number that does.")
    if not config.multi_query_attention or config.add_bias_linear or not config.rmsnorm:
        fault = "Megatron's GLM has groups, RMSNorm and no bias but that of query_key_value"
        raise CheckpointError("model_config", fault, "This network cannot be written so.")


def group_rows(value: np.ndarray, config: ChatGLM2Config) -> np.ndarray:
    """Rows q | k | v of all groups as (q, k, v) of each group in turn."""
    groups, e = config.num_kv_heads, config.kv_channels
    cuts = [config.num_attention_heads * e, (config.num_attention_heads + groups) * e]
    blocks = [block.reshape(groups, -1, *value.shape[1:]) for block in np.split(value, cuts)]
    return np.concatenate(blocks, axis=1).reshape(value.shape)


def ungroup_rows(value: np.ndarray, config: ChatGLM2Config) -> np.ndarray:
    """The inverse of `group_rows`."""
    groups, e = config.num_kv_heads, config.kv_channels
    heads = config.num_attention_heads // groups
    blocks = np.split(value.reshape(groups, -1, *value.shape[1:]), [heads * e, (heads + 1) * e], axis=1)
    return np.concatenate([block.reshape(-1, *value.shape[1:]) for block in blocks])


def cut(name: str, value: np.ndarray, config: ChatGLM2Config, tensor: int, tp: int) -> np.ndarray:
    """What one tensor rank holds of a weight with our name."""
    if "query_key_value" in name:
        return np.split(group_rows(value, config), tp)[tensor]
    if "dense_h_to_4h" in name:
        return np.concatenate([np.split(half, tp)[tensor] for half in np.split(value, 2)])
    if name.endswith(("self_attention.dense.weight", "dense_4h_to_h.weight")):
        return np.split(value, tp, axis=1)[tensor]
    return np.split(value, tp)[tensor] if value.ndim > 1 else value


def join(name: str, parts: list[np.ndarray], config: ChatGLM2Config) -> np.ndarray:
    """The whole weight from the parts of the tensor ranks: the inverse of `cut`."""
    if "query_key_value" in name:
        return ungroup_rows(np.concatenate(parts), config)
    if "dense_h_to_4h" in name:
        halves = zip(*(np.split(part, 2) for part in parts), strict=True)
        return np.concatenate([np.concatenate(half) for half in halves])
    if name.endswith(("self_attention.dense.weight", "dense_4h_to_h.weight")):
        return np.concatenate(parts, axis=1)
    return np.concatenate(parts) if parts[0].ndim > 1 else parts[0]


def stage_of(name: str, config: ChatGLM2Config, pp: int) -> tuple[int, str]:
    """(pipeline rank, name in its file) of a weight with our name."""
    match = _LAYER.match(name)
    if match is None:
        return (0 if "embedding" in name else pp - 1), _NAMES[name]
    stage, layer = divmod(int(match.group(1)), config.num_layers // pp)
    return stage, f"decoder.layers.{layer}.{_NAMES[name[match.end() :]]}"


def rank_folder(tensor: int, stage: int, pp: int) -> str:
    """Name of a rank's folder; the pipeline rank stands there only when there are several."""
    return f"mp_rank_{tensor:02d}" + (f"_{stage:03d}" if pp > 1 else "")


def write_megatron(
    weights: Mapping[str, np.ndarray] | WeightSource,
    config: ChatGLM2Config,
    folder: str | Path,
    *,
    tp: int = 1,
    pp: int = 1,
) -> list[Path]:
    """Writes whole weights under our names as a Megatron folder; returns its files. The tracker file comes last.

    Raises:
        CheckpointError: the network does not divide so, or a weight is missing.
    """
    check_division(config, tp, pp)
    folder, names = Path(folder), list(expected_shapes(config))
    read = weights.read if isinstance(weights, WeightSource) else weights.__getitem__
    missing = [name for name in names if name not in weights]
    if missing:
        raise CheckpointError(
            str(folder), f"{len(missing)} weights are missing: {missing[0]}", "Give a whole checkpoint."
        )
    written = []
    for stage in range(pp):
        here = {name: place for name in names for one, place in [stage_of(name, config, pp)] if one == stage}
        for tensor in range(tp):
            path = folder / ITERATION / rank_folder(tensor, stage, pp) / FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            write_torch(path, {place: cut(name, read(name), config, tensor, tp) for name, place in here.items()})
            written.append(path)
    write_text(folder / TRACKER, "1")
    return written


class MegatronWeights(Mapping):
    """The whole weights of a Megatron folder under our names, put together when read."""

    def __init__(self, folder: str | Path, config: ChatGLM2Config) -> None:
        folder = Path(folder)
        tracker = folder / TRACKER
        if tracker.is_file():
            told = tracker.read_text().strip()
            folder = folder / (f"iter_{int(told):07d}" if told.isdigit() else told)
        ranks = {}
        for path in sorted(folder.glob(f"mp_rank_*/{FILE}")):
            match = _RANK.fullmatch(path.parent.name)
            if match:
                ranks[int(match.group(1)), int(match.group(2) or 0)] = open_torch_bin(path)
        self.config, self._files = config, ranks
        self.tp, self.pp = (1 + max((place[axis] for place in ranks), default=-1) for axis in (0, 1))
        if not ranks or len(ranks) != self.tp * self.pp:
            fix = "Name the folder with latest_checkpointed_iteration.txt, with all its mp_rank folders."
            raise CheckpointError(str(folder), f"{len(ranks)} rank folders of Megatron", fix)
        self._names = list(expected_shapes(config))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> np.ndarray:
        stage, place = stage_of(name, self.config, self.pp)
        parts = []
        for tensor in range(self.tp):
            file = self._files[tensor, stage]
            if place not in file.entries:
                raise CheckpointError(str(file.path), f"no tensor {place}", "Is it ChatGLM2/3 with mcore names?")
            parts.append(typed(file.read_bits(place), file.entries[place].dtype))
        return join(name, parts, self.config)


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
