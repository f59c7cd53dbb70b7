"""Sharding strategies in MindSpore's files: which slice of each parameter a rank holds.

A strategy file is the protobuf `ParallelStrategyMap` (.ckpt) or the same as JSON. For each parameter it has a device
matrix, whose coordinates number the ranks, and for each axis the matrix dimension (counted from the right) that
divides it; -1 divides nothing. Optimizer parallelism divides axis 0 of the rank's slice once more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import CheckpointError, shorten
from mindformers_glm.files import atomic_write, parse_json, read_small, write_text
from mindformers_glm.optim.interface import parameter_of

Window = tuple[slice, ...]
MOST_RANKS = 1 << 16
_MOST_STAGES, _MOST_AXES = 1000, 32
_OPERATOR = "network"  # what the one operator is called


class Slicing(NamedTuple):
    """How one parameter is divided among the ranks of a stage."""

    dev_matrix: tuple[int, ...] = (1,)
    tensor_map: tuple[int | tuple[int, ...], ...] = ()
    opt_shard_step: int = 0
    opt_shard_size: int = 0

    @property
    def devices(self) -> int:
        """Ranks of the stage."""
        return math.prod(self.dev_matrix)

    def counts(self, ndim: int) -> tuple[int, ...]:
        """Into how many pieces each axis is divided, optimizer parallelism included."""
        counts = [math.prod(self.dev_matrix[d] for d in self._dimensions(axis)) for axis in range(ndim)]
        if ndim and self.opt_shard_size > 1:
            counts[0] *= self.opt_shard_size
        return tuple(counts)

    def place(self, rank: int, ndim: int) -> tuple[int, ...]:
        """Which piece along each axis a rank holds."""
        place = []
        for axis in range(ndim):
            index = 0
            for dimension in self._dimensions(axis):
                below = math.prod(self.dev_matrix[dimension + 1 :])
                index = index * self.dev_matrix[dimension] + rank // below % self.dev_matrix[dimension]
            place.append(index)
        if ndim and self.opt_shard_size > 1:
            place[0] = place[0] * self.opt_shard_size + rank // self.opt_shard_step % self.opt_shard_size
        return tuple(place)

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the parameter of which a rank holds `shape`."""
        return tuple(size * count for size, count in zip(shape, self.counts(len(shape)), strict=True))

    def window(self, name: str, shape: Sequence[int], rank: int) -> Window:
        """The slices of the whole parameter (of `shape`) that a rank holds.

        Raises:
            CheckpointError: an axis does not divide.
        """
        counts, place = self.counts(len(shape)), self.place(rank, len(shape))
        for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
            if size % count:
                fault = f"axis {axis} has {size} entries, the strategy divides it by {count}"
                raise CheckpointError(name, fault, "Is the strategy that of this network?")
        return tuple(
            slice(size // count * index, size // count * (index + 1))
            for size, count, index in zip(shape, counts, place, strict=True)
        )

    def _dimensions(self, axis: int) -> list[int]:
        named = self.tensor_map[axis] if axis < len(self.tensor_map) else -1
        named = named if isinstance(named, tuple) else (named,)
        return [len(self.dev_matrix) - 1 - one for one in named if one >= 0]


WHOLE = Slicing()


@dataclass
class Strategy:
    """The slicings of a job: parameter -> stage -> slicing."""

    place: str = ""
    slicings: dict[str, dict[int, Slicing]] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Ranks of one stage."""
        return next((one.devices for stages in self.slicings.values() for one in stages.values()), 1)

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return 1 + max((stage for stages in self.slicings.values() for stage in stages), default=0)

    @property
    def ranks(self) -> int:
        """Ranks of the job."""
        return self.devices * self.stages

    def holds(self, name: str, rank: int) -> bool:
        """False when the parameter lives on other stages than the rank's."""
        stages = self._entry(name)
        return not stages or rank // self.devices in stages

    def slicing(self, name: str, rank: int) -> Slicing:
        """The slicing of a parameter on a rank; optimizer moments without an entry follow their parameter."""
        stages = self._entry(name)
        return stages.get(rank // self.devices, WHOLE) if stages else WHOLE

    def _entry(self, name: str) -> dict[int, Slicing] | None:
        found = self.slicings.get(name)
        return found if found is not None else self.slicings.get(parameter_of(name))

    def add(self, name: str, stage: int, slicing: Slicing) -> None:
        """Adds one entry.

        Raises:
            CheckpointError: the same parameter is divided in another way already, or among another number of ranks.
        """
        known = self.slicings.setdefault(name, {}).setdefault(stage, slicing)
        if known != slicing or slicing.devices != self.devices:
            fault = f"{name} is divided in two ways ({known} and {slicing})"
            raise CheckpointError(self.place, fault, "Give the strategy files of one job, in a folder of their own.")


def read_strategy(path: str | Path | None) -> Strategy | None:
    """The strategy in a file, or in all the files of a folder; None for no path, "" or "None": complete weights.

    Files are only read: a merged strategy that an earlier tool left in the folder is ignored when the ranks' own
    files are there.

    Raises:
        CheckpointError: missing, unreadable, or files that contradict each other.
    """
    if path in (None, "", "None"):
        return None
    path = Path(path)
    if path.is_dir():
        files = sorted([*path.glob("*.ckpt"), *path.glob("*.json")])
        own = [file for file in files if not file.name.startswith("merged_")]
        files = [file for file in own if file.suffix == (own[0].suffix if own else "")] or files
        if not files:
            fix = "Name the folder output/strategy of the run, or one file in it."
            raise CheckpointError(str(path), "no strategy file (.ckpt or .json) in this folder", fix)
    else:
        files = [path]
    strategy = Strategy(str(path))
    for file in files:
        _read_into(strategy, file)
    return strategy


def write_strategy(path: str | Path, slicings: Mapping[str, Slicing], *, stage: int = 0) -> None:
    """Writes a strategy file that MindSpore reads: protobuf, or JSON for a name that ends so. Whole or not at all.

    MindSpore's tools take the stage from an operator's strategy: one entry of that kind is written to tell it.
    """
    if str(path).endswith(".json"):
        items = {
            name: {
                "dev_matrix": list(one.dev_matrix),
                "tensor_map": list(one.tensor_map),
                "param_split_shape": [],
                "indices_offset": [],
                "field": 0,
                "opt_weight_shard_step": one.opt_shard_step,
                "opt_weight_shard_size": one.opt_shard_size,
            }
            for name, one in slicings.items()
        }
        operator = {_OPERATOR: {"stage": stage, "parallel_strategy": []}}
        content = {"current_stage": stage, "parallel_strategy_item": operator, "parallel_layout_item": items}
        write_text(path, json.dumps(content))
        return
    from mindformers_glm.mindspore_private import ParallelStrategyMap  # noqa: PLC0415 - its protobuf

    message = ParallelStrategyMap(current_stage=stage)
    operator = message.parallel_strategy_item.add()
    operator.node_name, operator.parallel_strategys.stage = _OPERATOR, stage
    for name, one in slicings.items():
        item = message.parallel_layout_item.add()
        item.param_name, layout = name, item.parallel_layouts
        layout.dev_matrix.add().dim.extend(one.dev_matrix)
        layout.tensor_map.add().dim.extend(one.tensor_map)
        layout.param_split_shape.add()
        layout.indices_offset.add()
        layout.field = 0
        layout.opt_weight_shard_step, layout.opt_weight_shard_size = one.opt_shard_step, one.opt_shard_size
    with atomic_write(path) as file:
        file.write(message.SerializeToString())


def _read_into(strategy: Strategy, path: Path) -> None:
    data = read_small(path)
    stage, items = _json_items(path, data) if path.suffix == ".json" else _protobuf_items(path, data)
    if not 0 <= stage < _MOST_STAGES:
        fix = f"A strategy has stages 0 to {_MOST_STAGES - 1}."
        raise CheckpointError(str(path), f"current_stage is {shorten(stage)}", fix)
    if not items:
        fix = "It is no strategy file, or that of a run on one device."
        raise CheckpointError(str(path), "no parameter layouts in it", fix)
    for name, slicing in items:
        _check_slicing(path, name, slicing)
        number, dash, rest = name.partition("-")
        if dash and number.isdecimal() and len(number) < 4:  # merge_pipeline_strategys puts the stage before the name
            strategy.add(rest, int(number), slicing)
        else:
            strategy.add(name, stage, slicing)


def _check_slicing(path: Path, name: str, one: Slicing) -> None:
    """Passes when a slicing is one that a job of possible size can have, before ranks are counted out.

    Raises:
        CheckpointError: names the parameter and the entry.
    """

    def whole(value: Any, low: int, high: int) -> bool:
        return type(value) is int and low <= value < high

    axes = [axis for entry in one.tensor_map for axis in (entry if isinstance(entry, tuple) else (entry,))]
    matrix = one.dev_matrix
    sizes = 0 < len(matrix) <= _MOST_AXES and all(whole(size, 1, MOST_RANKS + 1) for size in matrix)
    faults = {
        "dev_matrix": not sizes or math.prod(matrix) > MOST_RANKS,
        "tensor_map": len(axes) > _MOST_AXES or not all(whole(axis, -1, len(matrix)) for axis in axes),
        "opt_weight_shard_step": not whole(one.opt_shard_step, -1, MOST_RANKS + 1)
        or (one.opt_shard_size > 1 and one.opt_shard_step < 1 if type(one.opt_shard_size) is int else True),
        "opt_weight_shard_size": not whole(one.opt_shard_size, -1, MOST_RANKS + 1),
    }
    values = dict(zip(faults, (matrix, one.tensor_map, one.opt_shard_step, one.opt_shard_size), strict=True))
    for key, wrong in faults.items():
        if wrong:
            fault = f"{key} of {shorten(name)} is {shorten(values[key])}"
            fix = f"No job of at most {MOST_RANKS:,} ranks divides a parameter so: name a file of output/strategy."
            raise CheckpointError(str(path), fault, fix)


def _protobuf_items(path: Path, data: bytes) -> tuple[int, list[tuple[str, Slicing]]]:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with MindSpore

    from mindformers_glm.mindspore_private import ParallelStrategyMap  # noqa: PLC0415

    message = ParallelStrategyMap()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(str(path), "not a strategy file", "Name a file of output/strategy.") from error
    items = []
    for item in message.parallel_layout_item:
        layout = item.parallel_layouts
        maps = [tuple(one.dim) for one in layout.tensor_map if one.dim]
        tensor_map = maps[0] if len(maps) == 1 else tuple(one[0] if len(one) == 1 else one for one in maps)
        matrix = tuple(layout.dev_matrix[0].dim) if layout.dev_matrix else (1,)
        steps = (layout.opt_weight_shard_step, layout.opt_weight_shard_size)
        items.append((item.param_name, Slicing(matrix, tensor_map, *steps)))
    return message.current_stage, items


def _json_items(path: Path, data: bytes) -> tuple[int, list[tuple[str, Slicing]]]:
    def axis(value: Any) -> int | tuple[int, ...]:
        return tuple(value) if isinstance(value, list) else value

    try:
        content = parse_json(data)
        items = [
            (
                name,
                Slicing(
                    tuple(one["dev_matrix"]),
                    tuple(axis(value) for value in one["tensor_map"]),
                    one.get("opt_weight_shard_step", 0),
                    one.get("opt_weight_shard_size", 0),
                ),
            )
            for name, one in content.get("parallel_layout_item", {}).items()
        ]
        stage = content.get("current_stage", 0)
        return (stage if type(stage) is int else -1), items
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = shorten(str(error))[1:-1] if type(error) is ValueError else "an entry is not as MindSpore writes it"
        fault = f"not a strategy file ({reason})"
        raise CheckpointError(str(path), fault, "Name a file of output/strategy.") from error
