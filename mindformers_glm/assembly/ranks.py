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
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.folders import step_of
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.store.resume import TrainState, data_of
from mindformers_glm.checkpoint.store.strategy import Strategy, read_strategy
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.log import logger
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.parallelize import local_size, parallelize
from mindformers_glm.optim import check_optimizer, state_parameters
from mindformers_glm.optim.interface import needs_whole_parameters
from mindformers_glm.parallel.collectives import sum_over
from mindformers_glm.parallel.mesh import SINGLE, Axis, Mesh, mesh_from_config, use
from mindformers_glm.registry import CONFIGS, MODELS


@dataclass
class Ranks:
    """The grid of a run with the network it divides. `config` is that of the whole network."""

    mesh: Mesh
    config: ChatGLM2Config
    divided: bool = False

    @classmethod
    def of(cls, run: Mapping[str, Any], model_config: Mapping[str, Any], *, key: str = "model.model_config") -> Ranks:
        """From a checked configuration and its `model_config` section; makes the grid the current one.

        Raises:
            ConfigError: the processes, the sections and the network do not fit together.
        """
        mesh = mesh_from_config(run, rank=runtime.rank(), world=runtime.rank_size())
        config = CONFIGS.build({"type": "ChatGLM2Config", **model_config}, key)
        sections, sizes = run.get("parallel") or {}, run.get("parallel_config") or {}
        divided = bool(sections.get("enable_parallel_optimizer")) and sizes.get("optimizer_shard") is not False
        use(mesh)
        return cls(mesh, config, divided and mesh.data.size > 1)

    @property
    def division(self) -> Division:
        """How the state of this run is divided."""
        return Division(self.mesh.data.size, self.mesh.tensor.size, self.divided)

    # building

    def network(self, arch: str = "ChatGLM2ForConditionalGeneration", *, training: bool) -> nn.Cell:
        """The part of the network of this rank, without weights, working along the grid.

        Data ranks train one batch together; otherwise each has batches of its own, and losses of its own.
        """
        model = MODELS.get(arch, "model.arch.type")(local_size(self.config, self.mesh))
        mesh = self.mesh if training else self.mesh._replace(data=SINGLE.data)
        if mesh.size > 1:
            parallelize(model, self.config, mesh)
        model.set_train(training)
        return model

    def random_weights(self, network: nn.Cell, arch: str) -> None:
        """Gives tensor ranks their parts of the random network that one process would draw, and not all the same."""
        if self.mesh.tensor.size > 1:
            if ms.get_seed() is not None:
                runtime.set_seed(ms.get_seed())
            whole = MODELS.get(arch, "model.arch.type")(self.config)
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
        optimizer = given or divided_optimizer(build, parameters, self.mesh, divide=self.divided)
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
        return reduction_of(optimizer.parameters, self.config, self.mesh)

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
            if self.mesh.tensor.size > 1:
                source = self.local(SourceArrays(source), network)
        return len(load_into(network, source, new_adapter=new_adapter).loaded)

    def write_strategy(self, folder: str | Path, network: nn.Cell, optimizer: nn.Cell | None = None) -> Path:
        """Writes `ckpt_strategy_rank_R.ckpt` for this rank's checkpoints; returns its path.

        Files of a run with another division move to a folder `previous_N` beside them.
        """
        names = [*(parameter.name for parameter in network.get_parameters())]
        names += [] if optimizer is None else list(state_parameters(optimizer))
        if self.mesh.rank == 0:
            _set_aside(Path(folder), self.state(network).strategy(names))
        everybody = Axis("all", tuple(range(self.mesh.size)), self.mesh.rank)
        sum_over(everybody, np.ones(1))  # nobody writes before rank 0 has looked
        return self.state(network).write_strategy(folder, names, self.mesh.rank)

    def state_of_all(self, saved: TrainState, path: Path, network: nn.Cell) -> TrainState:
        """`local_state` of a checkpoint of this run, once every rank has finished writing its file."""
        if self.mesh.size > 1:
            sum_over(Axis("all", tuple(range(self.mesh.size)), self.mesh.rank), np.ones(1))
        return self.local_state(saved, path, network)

    def local_state(self, saved: TrainState, path: Path, network: nn.Cell) -> TrainState:
        """A training state read from `path` with the arrays that this rank keeps, whatever division wrote it."""
        told = saved.data.get("division")
        division = Division(**told) if told else Division()
        if division.tp == self.division.tp == 1 and not division.divided and not self.divided:
            return saved
        whole = self.state(network, division).read_whole(path.parent.parent, step=step_of(path))
        if division != self.division:
            logger.info("%s was written by %s, this run has %s", path, division, self.division)
        arrays = self.local(whole, network)
        saved.weights = {name: arrays[name] for name in saved.weights}
        saved.optimizer = {name: arrays[name] for name in saved.optimizer}
        return saved


def saved_ranks(path: Path) -> int:
    """How many ranks wrote the training checkpoints in `path`, a folder `checkpoint` or its parent; 1 if unknown."""
    folder = path if (path / "rank_0").is_dir() else path / "checkpoint"
    files = sorted((folder / "rank_0").glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not files:
        return 1
    told = data_of(files[-1]).get("division")
    return Division(**told).ranks if told else 1


def _set_aside(folder: Path, strategy: Strategy) -> None:
    files = sorted(folder.glob("*_rank_*.ckpt")) if folder.is_dir() else []
    try:
        before = read_strategy(folder) if files else None
    except CheckpointError:
        before = Strategy()
    if before is None or before.slicings == strategy.slicings:
        return
    number = 1 + len(list(folder.glob("previous_*")))
    (folder / f"previous_{number}").mkdir()
    for file in files:
        file.rename(folder / f"previous_{number}" / file.name)
