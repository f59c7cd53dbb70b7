"""One process among those of a run: what it builds, loads, exchanges and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, nn

from mindformers_glm import runtime
from mindformers_glm.checkpoint.reshard import RankFiles
from mindformers_glm.checkpoint.source import WeightSource, open_file
from mindformers_glm.checkpoint.strategy import read_strategy
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.log import logger
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import build_model
from mindformers_glm.models.glm.parallelize import gather_logits, local_size, parallelize
from mindformers_glm.parallel.mesh import SINGLE, Mesh, mesh_from_config, use
from mindformers_glm.registry import CONFIGS, MODELS
from mindformers_glm.train.rank_state import Division, LocalState, RankState, whole_shapes
from mindformers_glm.train.reduction import divided_optimizer, reduction_of
from mindformers_glm.train.step import Reduction


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
        """The part of the network of this rank, working along the grid; whole logits come out unless it is to train."""
        if self.mesh == SINGLE:
            return build_model({"model_config": dict(self.config), "arch": {"type": arch}})
        local = local_size(self.config, self.mesh)
        model = parallelize(MODELS.get(arch, "model.arch.type")(local), self.config, self.mesh)
        model.set_train(training)
        return model if training else gather_logits(model, self.mesh)

    def optimizer(self, build: Callable[[list[Parameter]], nn.Cell], parameters: Sequence[Parameter]) -> nn.Cell:
        """The optimizer of `build`, its state divided where the configuration asks for it."""
        return divided_optimizer(build, parameters, self.mesh, divide=self.divided)

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

    def weights(self, source: WeightSource, network: nn.Cell) -> WeightSource | Mapping[str, np.ndarray]:
        """What `load_into` takes for this rank."""
        return source if self.mesh.tensor.size == 1 else self.local(SourceArrays(source), network)

    def write_strategy(self, folder: str | Path, network: nn.Cell, moments: Iterable[str] = ()) -> Path:
        """Writes `ckpt_strategy_rank_R.ckpt` for this rank's checkpoints; returns its path."""
        names = [*(parameter.name for parameter in network.get_parameters()), *moments]
        return self.state(network).write_strategy(folder, names, self.mesh.rank)

    def saved_by(self, folder: str | Path) -> Division:
        """The division of the run that wrote `folder/rank_R/*.ckpt`, from its newest file.

        Raises:
            CheckpointError: there is no training checkpoint of ours.
        """
        files = sorted(Path(folder).glob("rank_0/*.ckpt"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise CheckpointError(str(folder), "no checkpoint in rank_0", "Start without resume_training.")
        told = _train_state(files[-1]).get("data", {}).get("division")
        return Division(**told) if told else Division()

    def resume_arrays(self, folder: str | Path, network: nn.Cell, division: Division) -> Mapping[str, np.ndarray]:
        """The part of this rank of weights and moments in a checkpoint that a run of another division wrote."""
        whole = self.state(network, division).read_whole(folder)
        logger.info("Resuming a run of %d x %d ranks on %d x %d.", *division[:2], *self.division[:2])
        return self.local(whole, network)


class SourceArrays(Mapping):
    """A WeightSource as a mapping of name to array, read on request."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names)

    def __len__(self) -> int:
        return len(self._source.names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._source.read(name)


def divided_weights(folder: str | Path, strategy: str | Path | None) -> RankFiles | None:
    """The whole tensors of a `load_checkpoint` folder that a strategy divides; None when there is no strategy.

    Without `src_strategy_path_or_dir` the folder `strategy` beside it, where runs write theirs, is taken.

    Raises:
        ConfigError: a strategy was given and the checkpoint is no folder.
        CheckpointError: files are missing or do not fit the strategy.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if strategy:
            fix = "A strategy divides a folder of rank_0, rank_1, ...: name that folder."
            raise ConfigError("load_checkpoint", str(folder), fix)
        return None
    if not list(folder.glob("rank_*/*.ckpt")):
        return None
    beside = folder.parent / "strategy"
    place = strategy or (beside if beside.is_dir() and any(beside.iterdir()) else None)
    return RankFiles(folder, read_strategy(place)) if place else None


def _train_state(path: Path) -> dict[str, Any]:
    text = open_file(path).metadata.get("train_state")
    return json.loads(text) if text else {}
