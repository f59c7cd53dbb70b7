"""Megatron (mcore) folders as ModelLink writes them: `iter_0000001/mp_rank_TT[_PPP]/model_optim_rng.pt`.

Tensor ranks hold rows of query, key and value group by group (the heads of a group, its key, its value), and gate and
up each by its part; pipeline ranks hold neighbouring layers, numbered from 0 on each. Names are those of mcore with
local layers. `--use-glm-rope` turns neighbouring pairs as the official code does, so no row changes its place.
`--post-norm` (GLM-4-0414) calls the norm after attention `post_attn_norm`; Megatron-core's own
`post_self_attn_layernorm` is read too. Where the output layer is tied to the embedding, the last of several stages has
its table too, as the output layer. Written from knowledge of the format; no ModelLink was at hand to read the files.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.checkpoint.convert.arrays import ArraySource, Source
from mindformers_glm.checkpoint.convert.checks import check_complete
from mindformers_glm.checkpoint.formats.blocks import array_blocks, converted
from mindformers_glm.checkpoint.formats.dtypes import FLOATS, float_name, typed
from mindformers_glm.checkpoint.formats.folder import PREVIOUS, UNFINISHED, disk_fault
from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.checkpoint.formats.torch_bin import open_torch_bin
from mindformers_glm.checkpoint.formats.torch_write import write_torch
from mindformers_glm.checkpoint.load.folders import MEGATRON_FILE as FILE
from mindformers_glm.checkpoint.load.folders import is_megatron  # noqa: F401 - asked for here too
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import inside, read_small, sync_folder, write_text
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import expected_shapes, joins, megatron_name, tied, weight

ITERATION, TRACKER = "iter_0000001", "latest_checkpointed_iteration.txt"
_LAYER = re.compile(r"^transformer\.encoder\.layers\.(\d+)\.")
_AFTER_ATTENTION, _POST_NORM = ".post_self_attn_layernorm.", ".post_attn_norm."  # in Megatron-core, in ModelLink
_RANK = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?")


def check_division(config: NetworkConfig, tp: int, pp: int) -> None:
    """Raises CheckpointError when Megatron cannot divide the network so."""
    for flag, ranks in (("--tp", tp), ("--pp", pp)):
        if ranks < 1:
            raise CheckpointError(flag, f"{ranks} ranks", "Use 1 or more.")
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
        fault = "Megatron's GLM has groups, RMSNorm and no bias but that of query, key and value"
        raise CheckpointError("model_config", fault, "This network cannot be written so.")


def group_rows(value: np.ndarray, config: NetworkConfig) -> np.ndarray:
    """Rows q | k | v of all groups as (q, k, v) of each group in turn."""
    groups, e = config.num_kv_heads, config.kv_channels
    cuts = [config.num_attention_heads * e, (config.num_attention_heads + groups) * e]
    blocks = [block.reshape(groups, -1, *value.shape[1:]) for block in np.split(value, cuts)]
    return np.concatenate(blocks, axis=1).reshape(value.shape)


def ungroup_rows(value: np.ndarray, config: NetworkConfig) -> np.ndarray:
    """The inverse of `group_rows`."""
    groups, e = config.num_kv_heads, config.kv_channels
    heads = config.num_attention_heads // groups
    blocks = np.split(value.reshape(groups, -1, *value.shape[1:]), [heads * e, (heads + 1) * e], axis=1)
    return np.concatenate([block.reshape(-1, *value.shape[1:]) for block in blocks])


def cut(name: str, value: np.ndarray, config: NetworkConfig, tensor: int, tp: int) -> np.ndarray:
    """What one tensor rank holds of a weight with our name."""
    if joins(name) == "qkv":
        return np.split(group_rows(value, config), tp)[tensor]
    if joins(name) == "mlp":
        return np.concatenate([np.split(half, tp)[tensor] for half in np.split(value, 2)])
    if _shard_axis(name) == 1:
        return np.split(value, tp, axis=1)[tensor]
    return np.split(value, tp)[tensor] if value.ndim > 1 else value


def join(name: str, parts: list[np.ndarray], config: NetworkConfig) -> np.ndarray:
    """The whole weight from the parts of the tensor ranks: the inverse of `cut`."""
    if joins(name) == "qkv":
        return ungroup_rows(np.concatenate(parts), config)
    if joins(name) == "mlp":
        halves = zip(*(np.split(part, 2) for part in parts), strict=True)
        return np.concatenate([np.concatenate(half) for half in halves])
    if _shard_axis(name) == 1:
        return np.concatenate(parts, axis=1)
    return np.concatenate(parts) if parts[0].ndim > 1 else parts[0]


def stage_of(name: str, config: NetworkConfig, pp: int) -> tuple[int, str]:
    """(pipeline rank, name in its file) of a weight with our name."""
    match = _LAYER.match(name)
    if match is None:
        return (0 if "embedding" in name else pp - 1), megatron_name(name)
    stage, layer = divmod(int(match.group(1)), config.num_layers // pp)
    return stage, megatron_name(name, layer).replace(_AFTER_ATTENTION, _POST_NORM)


def rank_folder(tensor: int, stage: int, pp: int) -> str:
    """Name of a rank's folder; the pipeline rank stands there only when there are several."""
    return f"mp_rank_{tensor:02d}" + (f"_{stage:03d}" if pp > 1 else "")


def rank_parts(config: NetworkConfig, tp: int, pp: int) -> Iterator[tuple[str, int, dict[str, str]]]:
    """(file below the folder, tensor rank, our name -> name in it) of each rank, in the order of writing."""
    places = {name: stage_of(name, config, pp) for name in expected_shapes(config)}
    for stage in range(pp):
        here = {name: place for name, (one, place) in places.items() if one == stage}
        if 0 < stage == pp - 1:
            here |= {table: megatron_name(head) for head, table in tied(config).items()}
        for tensor in range(tp):
            yield f"{ITERATION}/{rank_folder(tensor, stage, pp)}/{FILE}", tensor, here


def write_megatron(
    weights: Mapping[str, np.ndarray] | WeightSource,
    config: NetworkConfig,
    folder: str | Path,
    *,
    tp: int = 1,
    pp: int = 1,
    dtype: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes whole weights under our names as a Megatron folder, which appears when it is whole; returns its files.

    Raises:
        CheckpointError: the network does not divide so, a weight is missing or does not fit `dtype`, the place is
            taken, or the disk refuses. Nothing is left then.
    """
    source = weights if isinstance(weights, WeightSource | MegatronWeights) else ArraySource(weights)
    check_writing(source, config, folder, tp=tp, pp=pp, overwrite=overwrite)
    out, kind = Path(folder), float_name(dtype) if dtype else None
    work = out.with_name(f"{out.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        for file, tensor, here in rank_parts(config, tp, pp):
            path = work / file
            path.parent.mkdir(parents=True)
            write_torch(path, {place: _cut(source, name, config, tensor, tp, kind) for name, place in here.items()})
        write_text(work / TRACKER, "1")
        _take_place(work, out)
    except OSError as error:
        raise disk_fault(out, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [out / file for file, _, _ in rank_parts(config, tp, pp)]


def check_writing(
    source: Source, config: NetworkConfig, folder: str | Path, *, tp: int, pp: int, overwrite: bool = False
) -> None:
    """Passes when `write_megatron` can begin.

    Raises:
        CheckpointError: as there.
    """
    check_division(config, tp, pp)
    out, names = Path(folder), list(source.names)
    missing = [name for name in expected_shapes(config) if name not in names]
    if missing:
        raise CheckpointError(str(out), f"{len(missing)} weights are missing: {missing[0]}", "Give a whole checkpoint.")
    check_complete(source, names, config)
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise CheckpointError(str(out), "it exists already", "Choose another name, or allow overwriting it.")
    if out.is_symlink() or not out.is_dir() or _others(out):
        fault = "it is not a Megatron folder of ours, or holds other files as well"
        raise CheckpointError(str(out), fault, "Move it away, or choose another name.")


def _cut(source: Source, name: str, config: NetworkConfig, tensor: int, tp: int, kind: str | None) -> np.ndarray:
    """A rank's part of a weight, in the type to be written."""
    stored = source.dtype(name)
    part = cut(name, source.read_bits(name), config, tensor, tp)
    target = kind if kind and stored in FLOATS else stored
    blocks = list(converted(iter([part]), stored, target, name=name, place=source.path))
    return typed(blocks[0], target)


def _others(folder: Path) -> list[Path]:
    """What is in a folder that `write_megatron` does not write."""
    ours = (
        TRACKER,
        ITERATION,
        rf"{ITERATION}/mp_rank_\d{{2}}(_\d{{3}})?",
        rf"{ITERATION}/mp_rank_\d{{2}}(_\d{{3}})?/{FILE}",
    )
    known = [re.compile(pattern) for pattern in ours]
    found = [path for path in folder.rglob("*")]
    return [
        path
        for path in found
        if path.is_symlink() or not any(one.fullmatch(path.relative_to(folder).as_posix()) for one in known)
    ]


def _take_place(work: Path, out: Path) -> None:
    """Gives a finished folder its name; an older one of ours goes when the new one is there."""
    previous = out.with_name(out.name + PREVIOUS)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    elif out.is_dir():
        os.rename(out, previous)
    os.rename(work, out)
    sync_folder(out.parent)
    if previous.is_dir() and not _others(previous):
        shutil.rmtree(previous)


def _shard_axis(name: str) -> int | None:
    row = weight(name)
    return None if row is None else row.shard_axis


class MegatronWeights(Mapping):
    """The whole weights of a Megatron folder under our names, put together when read; a source for conversions.

    Raises:
        CheckpointError: ranks are missing, or a part is not that of `config`.
    """

    format, naming, kind = "bin", "mcore", "weights"

    def __init__(self, folder: str | Path, config: NetworkConfig) -> None:
        self.path = Path(folder)
        folder = _iteration(self.path)
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
        self.files = list(ranks.values())
        most = sum(len(file.entries) for file in self.files)
        if config.num_layers > most:
            fault = f"its files have {most} tensors, num_layers of the configuration is {config.num_layers:,}"
            raise CheckpointError(str(folder), fault, "Give the configuration of this checkpoint.")
        check_division(config, self.tp, self.pp)
        self._shapes = expected_shapes(config)
        self.unknown: list[str] = []
        self.ignored: dict[str, str] = {}
        self.state: dict[str, Any] = {}

    @property
    def names(self) -> list[str]:
        """Our names of all weights."""
        return list(self._shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        return typed(self.read_bits(name), self.dtype(name))

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole weight."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """Type of a weight in its file."""
        stage, place = self._place(name)
        return self._file(0, stage, place).entries[place].dtype

    def read_bits(self, name: str) -> np.ndarray:
        """The whole weight's bits, from the parts of all tensor ranks."""
        stage, place = self._place(name)
        dtype, axes, wanted = self.dtype(name), len(self._shapes[name]), math.prod(self._shapes[name])
        parts = []
        for tensor in range(self.tp):
            file = self._file(tensor, stage, place)
            entry = file.entries[place]
            if entry.dtype != dtype or len(entry.shape) != axes or math.prod(entry.shape) > wanted:
                fault = f"{place} is {entry.dtype} {entry.shape}, a part of {dtype} {self._shapes[name]}"
                raise CheckpointError(str(file.path), fault, "Give the configuration of this checkpoint.")
            parts.append(file.read_bits(place))
        try:
            whole = join(name, parts, self.config)
        except ValueError:  # parts that do not go together
            whole = None
        if whole is None or whole.shape != self._shapes[name]:
            shapes = [part.shape for part in parts]
            fault = f"{place} is {shapes} on its ranks, which do not make {self._shapes[name]}"
            raise CheckpointError(str(self.path), fault, "Give the configuration of this checkpoint.")
        return whole

    def blocks(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows of a weight as flat blocks."""
        return array_blocks(self.read_bits(name), start, stop)

    def _file(self, tensor: int, stage: int, place: str) -> TensorFile:
        file = self._files[tensor, stage]
        if place not in file.entries:
            raise CheckpointError(str(file.path), f"no tensor {place}", "Is it a GLM with mcore names?")
        return file

    def _place(self, name: str) -> tuple[int, str]:
        """The stage of a weight, and its name there."""
        stage, place = stage_of(name, self.config, self.pp)
        other = place.replace(_POST_NORM, _AFTER_ATTENTION)
        return stage, other if other in self._files[0, stage].entries else place


def _iteration(folder: Path) -> Path:
    """The folder of the iteration that the tracker file names, or the folder itself without one."""
    if not (folder / TRACKER).is_file():
        return folder
    told = read_small(folder / TRACKER, limit=100).decode("utf-8", "replace").strip()
    if told != "release" and not (told.isdecimal() and len(told) < 10):
        fault = f"it names no iteration ({told[:40]!r})"
        raise CheckpointError(str(folder / TRACKER), fault, "Name the folder of the iteration itself.")
    return inside(folder, f"iter_{int(told):07d}" if told.isdecimal() else told, told_by=folder / TRACKER)
