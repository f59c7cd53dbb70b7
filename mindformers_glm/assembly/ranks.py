"""One process among those of a run: what it builds, loads, exchanges and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from mindformers_glm import runtime
from mindformers_glm.assembly.rank_state import Division, LocalState, RankState, whole_shapes
from mindformers_glm.assembly.reduction import Reduction, divided_optimizer, reduction_of
from mindformers_glm.assembly.weights import SourceArrays, whole_weights
from mindformers_glm.assembly.whole_numbers import put_whole_numbers
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.folders import step_of
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.store.resume import TrainState, data_of
from mindformers_glm.checkpoint.store.strategy import Strategy, read_strategy
from mindformers_glm.config.schema import RunSchema
from mindformers_glm.config.sections import ParallelSection, ParallelSizesSection
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.log import logger
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.optim import check_optimizer, state_parameters
from mindformers_glm.optim.interface import is_counter, needs_whole_parameters, state_of
from mindformers_glm.parallel.collectives import sum_over
from mindformers_glm.parallel.gradients import Exchange
from mindformers_glm.parallel.mesh import Mesh, mesh_from_config, use
from mindformers_glm.parallel.pipeline import Pipe
from mindformers_glm.parallel.sharding import is_own_rows
from mindformers_glm.registry import MODELS

WEIGHTS = 3  # the level of ZeRO that divides weights
FSDP = {"full_shard": 3, "shard_grad_op": 2, "no_shard": 0}


@dataclass
class Ranks:
    """The grid of a run with the network it divides. `config` is that of the whole network."""

    mesh: Mesh
    config: NetworkConfig
    divided: bool = False
    level: int = 0  # ZeRO's: 2 divides gradients too, 3 the weights
    exchange: Exchange = Exchange()

    def __post_init__(self) -> None:
        if self.mesh.replicas.size == 1:
            self.divided, self.level = False, 0
        self.level = self.level or int(self.divided)
        self.divided = self.level > 0

    @classmethod
    def of(cls, run: RunSchema, config: NetworkConfig) -> Ranks:
        """The grid of a checked run for the whole network `config`; makes the grid the current one.

        Raises:
            ConfigError: the processes, the sections and the network do not fit together.
        """
        mesh = mesh_from_config(run, rank=runtime.rank(), world=runtime.rank_size())
        use(mesh)
        level = zero_level(run.parallel, run.parallel_config)
        return cls(mesh, config, level=level, exchange=Exchange(run.parallel.overlap_grad_reduce))

    @property
    def division(self) -> Division:
        """How the state of this run is divided."""
        stages = self.mesh.stage.size
        layers = FAMILIES.of(self.config).staged(self.config, stages).counts if stages > 1 else ()
        return Division(self.mesh.replicas.size, self.mesh.tensor.size, self.divided, layers, self.level == WEIGHTS)

    @property
    def is_part(self) -> bool:
        """True where this rank's network is a part of the whole one."""
        return self.mesh.model.size > 1 or self.level == WEIGHTS

    # building

    def network(self, arch: str | None = None, *, training: bool) -> nn.Cell:
        """The part of the network of this rank, without weights, working along the grid.

        Data ranks train one batch together; otherwise each has batches of its own, and losses of its own.
        """
        family, stage = FAMILIES.of(self.config), self.mesh.stage
        ranks = family.ranks()
        local = ranks.local_size(self.config, self.mesh)
        parts = {"part": family.staged(self.config, stage.size).part(stage.rank)} if stage.size > 1 else {}
        model = _class_of(self.config, arch)(local, **parts)
        mesh = self.mesh if training else self.mesh.alone()
        if mesh.size > 1:
            ranks.parallelize(model, self.config, mesh)
        if training and self.level == WEIGHTS:
            family.divide_weights(model, self.config, mesh.replicas)
        model.set_train(training)
        if stage.size > 1:
            model.pipe = Pipe(stage)
        return model

    def random_weights(self, network: nn.Cell, arch: str) -> None:
        """Gives tensor ranks their parts of the random network that one process would draw, and not all the same."""
        if self.is_part:
            if ms.get_seed() is not None:
                runtime.set_seed(ms.get_seed())
            whole = _class_of(self.config, arch)(self.config)
            load_into(network, self.local({p.name: p.asnumpy() for p in whole.get_parameters()}, network))

    def optimizer(
        self,
        build: Callable[[list[Parameter]], nn.Cell],
        parameters: Sequence[Parameter],
        *,
        given: nn.Cell | None = None,
    ) -> nn.Cell:
        """The optimizer of `build`, its state divided where the configuration asks for it; or one that was given.

        Raises:
            ConfigError: it cannot be trained with, or not in this division.
        """
        if given is not None and self.divided:
            fix = "The state of an optimizer object cannot be divided: set it to False, or name the optimizer in YAML."
            raise ConfigError("parallel.enable_parallel_optimizer", True, fix)
        whole = self.level < WEIGHTS  # weights that are divided bring divided states with them
        optimizer = given or divided_optimizer(
            build, parameters, self.mesh, divide=self.divided and whole, owns_gradients=self.level > 1
        )
        check_optimizer(optimizer)
        inner = getattr(optimizer, "inner", optimizer)
        if needs_whole_parameters(inner) and (self.divided or self.mesh.tensor.size > 1):
            fix = (
                "Its updates are right for whole weights only, and this run divides them: use model_parallel: 1 and "
                "enable_parallel_optimizer: False, or another optimizer."
            )
            raise ConfigError("optimizer.type", type(inner).__name__, fix)
        return optimizer

    def reduction(self, optimizer: nn.Cell) -> Reduction:
        """What the ranks exchange in a step of this optimizer."""
        joined = [is_own_rows(one) for one in optimizer.parameters]
        return reduction_of(
            optimizer.parameters, self.config, self.mesh, level=self.level, joined=joined, exchange=self.exchange
        )

    # state

    def state(self, network: nn.Cell, division: Division | None = None) -> RankState:
        """Names, shapes and slices of the state of this run, or of one with another division."""
        shapes = whole_shapes(network.get_parameters(), self.config, self.mesh.tensor.size)
        return RankState(self.config, division or self.division, shapes)

    def on_disk(self, network: nn.Cell) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None:
        """What turns arrays in memory into those this rank writes; None when they are the same."""
        if self.mesh.size == 1:
            return None
        state = self.state(network)
        return lambda arrays: state.on_disk(arrays, self.mesh)

    def local(self, whole: Mapping[str, np.ndarray], network: nn.Cell) -> Mapping[str, np.ndarray]:
        """The part of this rank of whole tensors, cut when read."""
        return LocalState(whole, self.state(network), self.mesh.rank)

    def load_weights(self, network: nn.Cell, place: Path, *, strategy: str | None = None, new_adapter: bool) -> int:
        """Loads the weights at `place` into this rank's part and returns how many tensors; see `divided_weights`.

        Raises:
            CheckpointError: they do not fit the network.
        """
        source: Any = whole_weights(place, strategy)
        if source is not None:
            logger.info("%s is divided among ranks: reading the parts of this one", place)
            source = self.local(source, network)
        else:
            source = resolve(place).read(rank=self.mesh.rank)
            put_whole_numbers(network, self.config, source, place, mesh=self.mesh)
            if self.is_part:
                source = self.local(SourceArrays(source), network)
        return len(load_into(network, source, new_adapter=new_adapter).loaded)

    def write_strategy(self, folder: str | Path, network: nn.Cell, optimizer: nn.Cell | None = None) -> Path:
        """Writes `ckpt_strategy_rank_R.ckpt` for this rank's checkpoints; returns its path.

        Files of a run with another division move to a folder `previous_N` beside them.
        """
        names = [*(parameter.name for parameter in network.get_parameters())]
        names += [] if optimizer is None else list(state_parameters(optimizer))
        if self.mesh.rank == 0:
            _set_aside(Path(folder), self.state(network).strategy(names), self.division.ranks)
        sum_over(self.mesh.everybody, np.ones(1))  # nobody writes before rank 0 has looked
        return self.state(network).write_strategy(folder, names, self.mesh.rank)

    def state_of_all(self, saved: TrainState, path: Path, network: nn.Cell) -> TrainState:
        """`local_state` of a checkpoint of this run, once every rank has finished writing its file."""
        if self.mesh.size > 1:
            sum_over(self.mesh.everybody, np.ones(1))
        return self.local_state(saved, path, network)

    def local_state(self, saved: TrainState, path: Path, network: nn.Cell) -> TrainState:
        """A training state read from `path` with the arrays that this rank keeps, whatever division wrote it."""
        told = saved.data.get("division")
        division = Division.from_dict(told) if told else Division()
        if not (self.is_part or self.divided or division.divided or division.tp > 1 or division.stages > 1):
            return saved
        whole = self.state(network, division).read_whole(path.parent.parent, step=step_of(path))
        if division != self.division:
            logger.info("%s was written by %s, this run has %s", path, division, self.division)
        arrays, names = (
            self.local(whole, network),
            [name for name in whole if self.state(network).holds(name, self.mesh.rank)],
        )
        known = {parameter.name for parameter in network.get_parameters()}
        counters = [name for name in saved.optimizer if is_counter(name)]
        saved.weights = {name: arrays[name] for name in names if name in known}
        saved.optimizer = {name: arrays[name] for name in [*counters, *(one for one in names if state_of(one))]}
        return saved


def zero_level(section: ParallelSection, sizes: ParallelSizesSection) -> int:
    """What data ranks divide: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too.

    `parallel.zero_level` says it, or the words of PyTorch's FSDP in `parallel.fsdp`, or `enable_parallel_optimizer`.

    Raises:
        ConfigError: words that say nothing of this kind, or contradict each other.
    """
    level, words = section.zero_level, (section.fsdp or "").replace(",", " ").split()
    named = [FSDP[word] for word in words if word in FSDP]
    unknown = [word for word in words if word not in FSDP and word != "auto_wrap"]
    if unknown or len(named) > 1 or (words and not named):
        fix = f"Use one of {', '.join(FSDP)}, with auto_wrap if you like: layers are always wrapped one by one."
        raise ConfigError("parallel.fsdp", section.fsdp, fix)
    if level is not None and named and named[0] != level:
        fix = f"parallel.fsdp: {section.fsdp} means {named[0]}: leave one of the two out."
        raise ConfigError("parallel.zero_level", level, fix)
    if level is not None or named:
        return level if level is not None else named[0]
    return int(section.enable_parallel_optimizer and sizes.optimizer_shard is not False)


def saved_ranks(path: Path) -> int:
    """How many ranks wrote the training checkpoints in `path`, a folder `checkpoint` or its parent; 1 if unknown."""
    folder = path if (path / "rank_0").is_dir() else path / "checkpoint"
    files = sorted((folder / "rank_0").glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not files:
        return 1
    told = data_of(files[-1]).get("division")
    return Division.from_dict(told).ranks if told else 1


def _set_aside(folder: Path, strategy: Strategy, ranks: int) -> None:
    files = sorted(folder.glob("*_rank_*.ckpt")) if folder.is_dir() else []
    try:
        before = read_strategy(folder) if files else None
    except CheckpointError:
        before = Strategy()
    if before is None or (
        before.ranks == ranks and all(before.slicings.get(name) == one for name, one in strategy.slicings.items())
    ):
        return
    number = 1 + len(list(folder.glob("previous_*")))
    (folder / f"previous_{number}").mkdir()
    for file in files:
        file.rename(folder / f"previous_{number}" / file.name)


def _class_of(config: NetworkConfig, arch: str | None) -> Callable[[NetworkConfig], nn.Cell]:
    """The class of the network: the one that `model.arch` names, else that of the configuration's family."""
    return MODELS.get(arch, "model.arch.type") if arch else FAMILIES.of(config).network_class()
