"""The part of a training state that one rank keeps in memory, and the part that it writes: MindSpore's plain slices.

In memory a fused weight (query | key | value, gate | up) is divided block by block, which no strategy file can say. On
disk it is divided as MindSpore divides it, in plain rows, so that its tools merge our files; ranks exchange such
weights when they save. Reading goes through whole tensors and so works from any division to any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore import Parameter, Tensor

from mindformers_glm.checkpoint.load.names import is_adapter
from mindformers_glm.checkpoint.store.reshard import RankFiles
from mindformers_glm.checkpoint.store.strategy import Slicing, Strategy, write_strategy
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.optim.interface import Extent, parameter_of, state_of, unknown_state
from mindformers_glm.parallel.collectives import StackFromRanks
from mindformers_glm.parallel.mesh import Axis, Mesh, make_mesh
from mindformers_glm.parallel.optimizer import is_divided


class Division(NamedTuple):
    """How a job divides its state.

    `dp`: ranks that hold the same part of the network (those that divide a sequence included); `tp`: tensor ranks;
    `divided`: optimizer state is divided over the `dp` ranks; `layers`: those of each pipeline stage, none without;
    `weights`: large weights are divided over the `dp` ranks, and their states with them.
    """

    dp: int = 1
    tp: int = 1
    divided: bool = False
    layers: tuple[int, ...] = ()
    weights: bool = False

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return len(self.layers) or 1

    @property
    def devices(self) -> int:
        """Processes of one stage."""
        return self.dp * self.tp

    @property
    def ranks(self) -> int:
        """Processes of the job."""
        return self.devices * self.stages

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Division:
        """The inverse of `to_dict`."""
        return cls(**{**told, "layers": tuple(told.get("layers") or ())})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {**self._asdict(), "layers": list(self.layers)}


class RankState:
    """Shapes and slices of one job's state. `shapes`: the whole shape of every parameter (see `whole_shapes`).

    States of each element (`adam_m.<parameter>`, see optim/interface.py) have their parameter's shape; counters and
    single numbers are held whole by every rank. What can be neither is refused by name.
    """

    def __init__(self, config: NetworkConfig, division: Division, shapes: Mapping[str, Sequence[int]]) -> None:
        self.config, self.division, self.shapes = config, division, shapes
        family = FAMILIES.of(config)
        self.tensors = family.divided(config, division.tp)
        self.stages = family.staged(config, division.layers or (config.num_layers,))

    @property
    def layout(self) -> Any:
        """`tensors` under the name that it had before 0.2, for scripts that cut and merge with it."""
        return self.tensors

    def holds(self, name: str, rank: int) -> bool:
        """True for what the stage of `rank` has."""
        return self.division.stages == 1 or rank // self.division.devices in self.stages.of(name)

    def whole_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a whole tensor; None for what every rank holds alike.

        Raises:
            CheckpointError: a state of a parameter that this job divides, and nobody knows how the state is divided.
        """
        shape = self.shapes.get(parameter_of(name))
        if shape is not None:
            return tuple(shape)
        state = state_of(name)
        parameter = state.parameter if state is not None else unknown_state(name, self.shapes)
        if parameter is not None and parameter in self.shapes and self._divides(parameter):
            if state is None:
                fault = f"a state of {parameter} under a name of no known optimizer: its parts cannot be put together"
                raise CheckpointError(name, fault, "Declare it with mindformers_glm.optim.declare_states.")
            if state.extent is Extent.FACTORS:
                fault = "means over rows or columns of a weight that the ranks divide cannot be put together"
                raise CheckpointError(name, fault, "Resume with whole weights: model_parallel 1, no divided state.")
        return None

    def local(self, name: str, whole: np.ndarray, rank: int) -> np.ndarray:
        """What `rank` keeps in memory of a whole tensor."""
        if self.whole_shape(name) is None:
            return whole
        mesh = make_mesh(rank % self.division.devices, dp=self.division.dp, tp=self.division.tp)
        part = self.tensors.cut(name, whole, mesh.tensor.rank)
        if not self._over_data(name, part.shape):
            return part
        rows = part.shape[0] // self.division.dp
        return part[mesh.data.rank * rows : (mesh.data.rank + 1) * rows]

    def merge(self, name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The whole tensor from what all ranks (of a stage that holds it) keep in memory."""
        if self.whole_shape(name) is None:
            return parts[0]
        dp, tp = self.division.dp, self.division.tp
        rows = sum(part.shape[0] for part in parts[::tp]) if parts[0].ndim else 0
        over_data = self._over_data(name, (rows, *parts[0].shape[1:])) and self._memory_rows(name) == rows
        if over_data:
            parts = [np.concatenate([parts[data * tp + tensor] for data in range(dp)]) for tensor in range(tp)]
        return self.tensors.merge(name, parts[:tp])

    def slicing(self, name: str) -> Slicing:
        """How a tensor is divided on disk."""
        whole, dp, tp = self.whole_shape(name), self.division.dp, self.division.tp
        if whole is None:
            return Slicing((dp, tp))
        axis = self.tensors.rule(name, whole).axis
        if axis is not None and whole[axis] % tp:
            axis = None
        tensor_map = [0 if one == axis else -1 for one in range(len(whole))]
        rows = whole[0] // (tp if axis == 0 else 1) if whole else 0
        if whole and self._over_data(name, (rows, *whole[1:])):
            if axis == 0:
                return Slicing((dp, tp), tuple(tensor_map), tp, dp)
            tensor_map[0] = 1  # MindSpore misreads optimizer parallelism of a tensor that tensor ranks hold alike
        return Slicing((dp, tp), tuple(tensor_map))

    def on_disk(self, arrays: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, np.ndarray]:
        """What this rank writes, from what it keeps in memory. All ranks of a stage call it with the same names."""
        written = {}
        for name, value in arrays.items():
            whole = self.whole_shape(name)
            if whole is not None and len(self.tensors.rule(name, whole).parts) > 1:
                merged = self.merge(name, exchange(value, mesh.within_stage))
                value = merged[self.slicing(name).window(name, whole, mesh.within_stage.rank)]
            written[name] = value
        return written

    def strategy(self, names: Iterable[str]) -> Strategy:
        """The division on disk of these tensors."""
        strategy = Strategy("this job")
        for name in names:
            if self.whole_shape(name) is not None:
                for stage in self.stages.of(name):
                    strategy.add(name, stage, self.slicing(name))
        return strategy

    def write_strategy(self, folder: str | Path, names: Iterable[str], rank: int) -> Path:
        """Writes `folder/ckpt_strategy_rank_R.ckpt` for a state with these names; returns its path."""
        path = Path(folder) / f"ckpt_strategy_rank_{rank}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        slicings = {name: next(iter(stages.values())) for name, stages in self.strategy(names).slicings.items()}
        write_strategy(path, slicings, stage=rank // self.division.devices)
        return path

    def read_whole(self, folder: str | Path, *, step: tuple[int, int] | None = None) -> RankFiles:
        """The whole tensors of a checkpoint in `folder/rank_R`: of `step`, or the newest that every rank wrote.

        Raises:
            CheckpointError: a rank's checkpoint is missing, or it is that of another network.
        """
        counter = Strategy(str(folder))
        counter.add("", self.division.stages - 1, Slicing((self.division.dp, self.division.tp)))
        strategy = self.strategy(RankFiles(folder, counter, step=step))
        strategy.slicings.update(counter.slicings)  # counts the ranks, whichever stages our tensors are on
        return RankFiles(folder, strategy, step=step)

    def _memory_rows(self, name: str) -> int:
        """Rows of what one tensor rank keeps of a tensor before data ranks divide it."""
        whole = self.whole_shape(name) or (0,)
        rule = self.tensors.rule(name, whole)
        if rule.axis != 0:
            return whole[0]
        return sum(rows // pieces for rows, pieces in rule.parts)

    def _over_data(self, name: str, local: Sequence[int]) -> bool:
        parameter = parameter_of(name)
        return self._rows_over_data(parameter, local, is_state=parameter != name)

    def _rows_over_data(self, parameter: str, local: Sequence[int], *, is_state: bool) -> bool:
        if not is_divided(local, self.division.dp):
            return False
        if self.division.weights:
            return len(local) == 2 and not is_adapter(parameter)  # noqa: PLR2004 - matrices
        return self.division.divided and is_state

    def _divides(self, parameter: str) -> bool:
        whole = tuple(self.shapes[parameter])
        rows = (self._memory_rows(parameter), *whole[1:]) if whole else ()
        over_data = self.division.divided and self._rows_over_data(parameter, rows, is_state=True)
        return over_data or self.tensors.rule(parameter, whole).axis is not None


class LocalState(Mapping):
    """What one rank keeps in memory of whole tensors, cut when read: for `load_into` and the optimizer's state."""

    def __init__(self, source: Mapping[str, np.ndarray], state: RankState, rank: int) -> None:
        self._source, self._state, self._rank = source, state, rank

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._source if self._state.holds(name, self._rank))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._state.local(name, self._source[name], self._rank)


def whole_shapes(parameters: Iterable[Parameter], config: NetworkConfig, tp: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the whole tensor, from the parameters of one tensor rank's network."""
    tensors = FAMILIES.of(config).divided(config, tp)
    return {parameter.name: tensors.whole_shape(parameter.name, parameter.shape) for parameter in parameters}


def exchange(value: np.ndarray, axis: Axis) -> list[np.ndarray]:
    """Every rank's array of equal shape and type, in order, bit for bit.

    The bits travel as whole numbers below 65536 in float32, which a sum with zeros keeps exactly.
    """
    if axis.size == 1:
        return [value]
    words = np.ascontiguousarray(value).reshape(-1).view(np.uint16).astype(np.float32)
    received = StackFromRanks(axis)(Tensor(words)).asnumpy().astype(np.uint16)
    return [row.copy().view(value.dtype).reshape(value.shape) for row in received]
