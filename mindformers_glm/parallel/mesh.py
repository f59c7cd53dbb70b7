"""The processes of a job as a grid of data, tensor and pipeline ranks, and the YAML sections that describe it.

Numbering is MindSpore's for a device matrix [data, context, model] in each stage:
rank = ((stage * dp + data) * cp + context) * tp + tensor.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm import runtime
from mindformers_glm.config.schema import RunSchema
from mindformers_glm.config.sections import ParallelSection, ParallelSizesSection
from mindformers_glm.errors import ConfigError

TIED = "tied"  # the axis of a table that the first and the last stage of a pipeline hold
_DATA_MODES = (0, 3)  # data parallel and hybrid: every process holds the whole network
_AXES = {"data_parallel": "dp", "model_parallel": "tp", "pipeline_stage": "pp", "context_parallel": "cp"}


class Axis(NamedTuple):
    """One axis of the grid as a process sees it: its own place, and the global ranks it works with."""

    name: str
    ranks: tuple[int, ...] = (0,)
    rank: int = 0

    @property
    def size(self) -> int:
        """How many processes lie along the axis."""
        return len(self.ranks)

    @property
    def group(self) -> str:
        """The communication group of these ranks, made the first time it is asked for (by all of them alike)."""
        from mindspore.communication import GlobalComm, create_group  # noqa: PLC0415 - starts libraries

        if self.size == runtime.rank_size():
            return GlobalComm.WORLD_COMM_GROUP
        name = f"{self.name}-" + "-".join(map(str, self.ranks))
        if name not in _made:
            create_group(name, list(self.ranks))
            _made.add(name)
        return name


class Mesh(NamedTuple):
    """The place of one process: an axis of each kind.

    `replicas` are the ranks that hold the same weights and see other tokens: all of data and context.
    """

    data: Axis = Axis("dp")
    tensor: Axis = Axis("tp")
    stage: Axis = Axis("pp")
    context: Axis = Axis("cp")
    replicas: Axis = Axis("dp")
    divides_rows: bool = False  # tensor ranks divide the rows between cut layers (sequence parallel)

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.replicas.size * self.tensor.size * self.stage.size

    @property
    def rank(self) -> int:
        """Global number of this process."""
        return (self.stage.rank * self.replicas.size + self.replicas.rank) * self.tensor.size + self.tensor.rank

    @property
    def within_stage(self) -> Axis:
        """The ranks of this process's stage."""
        count = self.replicas.size * self.tensor.size
        return Axis("stage", tuple(range(self.stage.rank * count, (self.stage.rank + 1) * count)), self.rank % count)

    @property
    def model(self) -> Axis:
        """The ranks that together hold one copy of the network: the tensor ranks of all stages."""
        replicas, tp = self.replicas.size, self.tensor.size
        ranks = [
            (stage * replicas + self.replicas.rank) * tp + tensor
            for stage in range(self.stage.size)
            for tensor in range(tp)
        ]
        return Axis("model", tuple(ranks), self.stage.rank * tp + self.tensor.rank)

    @property
    def everybody(self) -> Axis:
        """All ranks."""
        return Axis("all", tuple(range(self.size)), self.rank)

    def alone(self) -> Mesh:
        """The same ranks with other tokens on each: no replica waits for another."""
        return self._replace(data=Axis("dp"), context=Axis("cp"), replicas=Axis("dp"))


SINGLE = Mesh()
_made: set[str] = set()
_current = [SINGLE]


def make_mesh(rank: int, *, dp: int = 1, tp: int = 1, pp: int = 1, cp: int = 1) -> Mesh:
    """The grid as process `rank` sees it.

    Raises:
        ValueError: the rank lies outside dp * cp * tp * pp.
    """
    if not 0 <= rank < dp * cp * tp * pp:
        raise ValueError(f"rank {rank} is not in a grid of {dp} x {tp} x {pp}" + (f" x {cp}" if cp > 1 else ""))
    numbers = np.arange(dp * cp * tp * pp).reshape(pp, dp, cp, tp)
    stage, data, context, tensor = (int(at) for at in np.unravel_index(rank, numbers.shape))

    def axis(name: str, ranks: np.ndarray, own: int) -> Axis:
        return Axis(name, tuple(ranks.reshape(-1).tolist()), own)

    return Mesh(
        data=axis("dp", numbers[stage, :, context, tensor], data),
        tensor=axis("tp", numbers[stage, data, context], tensor),
        stage=axis("pp", numbers[:, data, context, tensor], stage),
        context=axis("cp", numbers[stage, data, :, tensor], context),
        replicas=axis("dp" if cp == 1 else "dpcp", numbers[stage, :, :, tensor], data * cp + context),
    )


def current() -> Mesh:
    """The grid this process works in: alone, unless `use` said otherwise."""
    return _current[0]


def use(mesh: Mesh) -> Mesh:
    """Makes `mesh` the grid of everything built from now on, and returns the one before."""
    before, _current[0] = _current[0], mesh
    return before


def mesh_from_config(config: RunSchema, *, rank: int, world: int) -> Mesh:
    """The grid that `use_parallel`, `parallel` and `parallel_config` of a configuration ask for.

    `parallel_mode` 0 and 3 (data, hybrid) put every process on the data axis. 1 and 2 (semi-auto, auto) take the
    axes from `parallel_config`; the layers are divided by explicit operators and not by MindSpore's compiler.

    Raises:
        ConfigError: the axes do not make up the processes, or a value cannot be honoured.
    """
    if not config.use_parallel:
        if world > 1:
            fix = f"{world} processes were started and would all do the same. Set use_parallel: True or start one."
            raise ConfigError("use_parallel", False, fix)
        return SINGLE
    sizes, mode = config.parallel_config, config.parallel.parallel_mode
    _refuse(config.parallel, sizes)
    if mode in _DATA_MODES:
        for name in ("model_parallel", "pipeline_stage", "context_parallel"):
            if getattr(sizes, name) > 1:
                fix = f"parallel_mode {mode} divides data only: set parallel_mode: 1, or {name}: 1."
                raise ConfigError(f"parallel_config.{name}", getattr(sizes, name), fix)
        return make_mesh(rank, dp=world)
    axes = {short: getattr(sizes, name) for name, short in _AXES.items()}
    product = math.prod(axes.values())
    if product != world:
        shown = " x ".join(f"{name} {axes[short]}" for name, short in _AXES.items() if short != "cp" or axes["cp"] > 1)
        started = "1 process was" if world == 1 else f"{world} processes were"
        repair = "Start as many with scripts/run_distribute.sh, change the sizes, or set use_parallel: False."
        fix = f"{shown} = {product}, and {started} started. {repair}"
        raise ConfigError("parallel_config.data_parallel", axes["dp"], fix)
    divides_rows = sizes.use_seq_parallel and axes["tp"] > 1
    return make_mesh(rank, **axes)._replace(divides_rows=divides_rows)


def check_tensor_parallel(config: Any, size: int) -> None:
    """Raises ConfigError when a network of this configuration cannot be cut into `size` parts.

    Heads, feed-forward channels and vocabulary rows must divide. Key-value groups divide, or (more ranks than groups)
    each group is held by several ranks, which add up its gradient.
    """
    if size == 1:
        return
    counts = {
        "num_attention_heads": config.num_attention_heads,
        "ffn_hidden_size": config.ffn_hidden_size,
        "padded_vocab_size": config.padded_vocab_size,
    }
    for name, count in counts.items():
        if count % size:
            fix = f"It must divide model.model_config.{name} ({count})."
            raise ConfigError("parallel_config.model_parallel", size, fix)
    groups = config.num_kv_heads
    if groups % size and size % groups:
        fix = f"It must divide multi_query_group_num ({groups}) or be a multiple of it."
        raise ConfigError("parallel_config.model_parallel", size, fix)


def _refuse(section: ParallelSection, sizes: ParallelSizesSection) -> None:
    """Raises ConfigError for what MindFormers can do and this project cannot."""
    if sizes.seq_split_num > 1:
        fix = "Sequences are not divided among devices so: set 1 and use model_parallel or recompute."
        raise ConfigError("parallel_config.seq_split_num", sizes.seq_split_num, fix)
    if section.auto_pipeline:
        fix = "Stages are as parallel_config.pipeline_stage and model_config.offset say: set False."
        raise ConfigError("parallel.auto_pipeline", True, fix)
