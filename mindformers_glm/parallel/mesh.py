"""The processes of a job as a grid of data, tensor and pipeline ranks, and the YAML sections that describe it.

Numbering is MindSpore's for a device matrix [data, model] in each stage: rank = (stage * dp + data) * tp + tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mindformers_glm import runtime
from mindformers_glm.errors import ConfigError

_DATA_MODES = (0, 3)  # data parallel and hybrid: every process holds the whole network
_AXES = {"data_parallel": "dp", "model_parallel": "tp", "pipeline_stage": "pp"}


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
    """The place of one process: an axis of each kind."""

    data: Axis = Axis("dp")
    tensor: Axis = Axis("tp")
    stage: Axis = Axis("pp")

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.data.size * self.tensor.size * self.stage.size

    @property
    def rank(self) -> int:
        """Global number of this process."""
        return (self.stage.rank * self.data.size + self.data.rank) * self.tensor.size + self.tensor.rank


SINGLE = Mesh()
_made: set[str] = set()
_current = [SINGLE]


def make_mesh(rank: int, *, dp: int = 1, tp: int = 1, pp: int = 1) -> Mesh:
    """The grid as process `rank` sees it.

    Raises:
        ValueError: the rank lies outside dp * tp * pp.
    """
    if not 0 <= rank < dp * tp * pp:
        raise ValueError(f"rank {rank} is not in a grid of {dp} x {tp} x {pp}")
    tensor, data, stage = rank % tp, rank // tp % dp, rank // (tp * dp)
    first = stage * dp * tp
    return Mesh(
        Axis("dp", tuple(first + other * tp + tensor for other in range(dp)), data),
        Axis("tp", tuple(first + data * tp + other for other in range(tp)), tensor),
        Axis("pp", tuple(other * dp * tp + data * tp + tensor for other in range(pp)), stage),
    )


def current() -> Mesh:
    """The grid this process works in: alone, unless `use` said otherwise."""
    return _current[0]


def use(mesh: Mesh) -> Mesh:
    """Makes `mesh` the grid of everything built from now on, and returns the one before."""
    before, _current[0] = _current[0], mesh
    return before


def mesh_from_config(config: Mapping[str, Any], *, rank: int, world: int) -> Mesh:
    """The grid that `use_parallel`, `parallel` and `parallel_config` of a YAML file ask for.

    `parallel_mode` 0 and 3 (data, hybrid) put every process on the data axis. 1 and 2 (semi-auto, auto) take the
    axes from `parallel_config`; the layers are divided by explicit operators and not by MindSpore's compiler.

    Raises:
        ConfigError: the axes do not make up the processes, or a value cannot be honoured.
    """
    if not config.get("use_parallel"):
        if world > 1:
            fix = f"{world} processes were started and would all do the same. Set use_parallel: True or start one."
            raise ConfigError("use_parallel", False, fix)
        return SINGLE
    sections = config.get("parallel") or {}
    sizes = config.get("parallel_config") or {}
    mode = sections.get("parallel_mode", 0)
    _refuse(sections, sizes)
    if mode in _DATA_MODES:
        for name in ("model_parallel", "pipeline_stage"):
            if (sizes.get(name) or 1) > 1:
                fix = f"parallel_mode {mode} divides data only: set parallel_mode: 1, or {name}: 1."
                raise ConfigError(f"parallel_config.{name}", sizes[name], fix)
        return make_mesh(rank, dp=world)
    axes = {short: sizes.get(name) or 1 for name, short in _AXES.items()}
    if axes["dp"] * axes["tp"] * axes["pp"] != world:
        shown = " x ".join(f"{name} {axes[short]}" for name, short in _AXES.items())
        product = axes["dp"] * axes["tp"] * axes["pp"]
        started = "1 process was" if world == 1 else f"{world} processes were"
        repair = "Start as many with scripts/run_distribute.sh, change the sizes, or set use_parallel: False."
        fix = f"{shown} = {product}, and {started} started. {repair}"
        raise ConfigError("parallel_config.data_parallel", axes["dp"], fix)
    return make_mesh(rank, **axes)


def check_tensor_parallel(config: Any, size: int) -> None:
    """Raises ConfigError when a network of this ChatGLM2Config cannot be cut into `size` parts.

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


def _refuse(sections: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """Raises ConfigError for what MindFormers can do and this project cannot."""
    if (sizes.get("pipeline_stage") or 1) > 1:
        fix = "Pipeline stages are not built yet (docs/distributed.md says how they would be): use model_parallel."
        raise ConfigError("parallel_config.pipeline_stage", sizes["pipeline_stage"], fix)
    for name in ("context_parallel", "seq_split_num"):
        if (sizes.get(name) or 1) > 1:
            fix = "Sequences are not divided among devices here: set 1 and use model_parallel or recompute."
            raise ConfigError(f"parallel_config.{name}", sizes[name], fix)
    if sizes.get("use_seq_parallel") and (sizes.get("model_parallel") or 1) > 1:
        fix = "Norms and dropout stay whole on each tensor rank here: set False; it saves memory and changes no result."
        raise ConfigError("parallel_config.use_seq_parallel", True, fix)
    if sections.get("auto_pipeline"):
        raise ConfigError("parallel.auto_pipeline", True, "Pipeline stages are not built yet: set False.")
