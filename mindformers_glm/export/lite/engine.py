"""An exported model in the real MindSpore Lite, ready to generate."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.checkpoint.load.model_files import check_tokenizer
from mindformers_glm.errors import CheckpointError, ConfigError, DeviceError
from mindformers_glm.export.lite.interpreter import can_import_here, find_python
from mindformers_glm.export.lite.network import INCREMENT, PREFILL, Fixed, LiteNetwork
from mindformers_glm.export.lite.process import SharedArray, Worker
from mindformers_glm.export.lite.settings import LiteSettings, read_pair
from mindformers_glm.export.lite.worker import LiteModel, about
from mindformers_glm.export.manifest import Graph, Manifest, check_file, find_manifest, sha256
from mindformers_glm.generation.cache import CacheShape
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.log import logger
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers.glm import GLMTokenizer

_MAX_ROWS = 16  # at once, for a graph that takes any number


class LiteEngine(Engine):
    """The engine over an exported model; `runner` is a Worker, or Lite in this process. Options as for Engine."""

    def __init__(self, network: LiteNetwork, **options: Any) -> None:
        super().__init__(network, **options)
        self.runner = network.runner

    def close(self) -> None:
        """Ends the owner thread, and the worker process if there is one."""
        super().close()
        self.runner.close()


class LiteChat(NamedTuple):
    """All that a conversation needs: the engine, and the tokenizer and configuration of its model.

    Use it in a `with` block, or close it: nothing of it outlives this process either way.
    """

    engine: LiteEngine
    tokenizer: GLMTokenizer | None
    config: NetworkConfig
    manifest: Manifest

    def __enter__(self) -> LiteChat:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine and its worker."""
        self.engine.close()


class LocalRunner:
    """Lite in this process."""

    def __init__(self) -> None:
        self._models: dict[str, LiteModel] = {}

    def about(self) -> dict[str, Any]:
        """Version of Lite and of Python."""
        return about()

    def load(self, model: str, path: str, settings: Mapping[str, Any]) -> list[list[Any]]:
        """See Worker."""
        try:
            self._models[model] = LiteModel(path, settings)
        except (RuntimeError, ValueError, TypeError) as error:
            raise DeviceError(f"MindSpore Lite: {error}") from error
        return self._models[model].inputs()

    def run(self, model: str, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See Runner."""
        try:
            return [np.array(output) for output in self._models[model].run(feed)]
        except (RuntimeError, ValueError, TypeError) as error:
            raise DeviceError(f"MindSpore Lite: {error}") from error

    def close(self) -> None:
        """Gives up the models."""
        self._models.clear()


class Export(NamedTuple):
    """What the files of an export say, before Lite loads one."""

    manifest: Manifest
    folder: Path
    named: Graph | None
    tokenizer: GLMTokenizer | None
    config: NetworkConfig

    @property
    def defaults(self) -> GenerationConfig:
        """The settings that requests start from."""
        found = GenerationConfig.from_model(self.config)
        return found if self.tokenizer is None else found.ending_also(self.tokenizer.stop_ids)


def read_export(
    path: str | Path, *, increment: str | Path | None = None, tokenizer: GLMTokenizer | str | Path | None = None
) -> Export:
    """The export that `path` leads to; arguments and errors as for `open_lite`."""
    manifest, folder, named = find_manifest(path)
    if increment is not None:
        _check_pair(manifest, folder, increment)
    config = NetworkConfig(**manifest.network)
    return Export(manifest, folder, named, _tokenizer(tokenizer, manifest, folder, config), config)


def open_lite(
    path: str | Path | Export,
    *,
    increment: str | Path | None = None,
    tokenizer: GLMTokenizer | str | Path | None = None,
    lite_python: str | Path | None = None,
    target: str = "cpu",
    config_path: str | None = None,
    threads: int | None = None,
    device_id: int = 0,
    rank_id: int = 0,
    max_num_seqs: int | None = None,
    prefer_converted: bool = True,
    seconds: float = 600.0,
    max_rows: int | None = None,
) -> LiteChat:
    """An export, loaded: `path` is its folder, its manifest or one of its graphs, or what `read_export` found there.

    `increment` and `tokenizer` belong to `read_export` where that has been called.

    The file that the Lite on this machine can read is chosen, unless a `.ms` file is named; of two that it can read the
    one that the Converter made, which loads faster, unless `prefer_converted` is False. `increment` is the second
    graph where the user names both; a graph of any length is loaded once. `tokenizer` replaces the one that was
    exported with the network and must be equal. `max_num_seqs` sequences are decoded at once (`max_rows` is its former
    name). `seconds` is the longest that Lite may be silent.

    Raises:
        CheckpointError: the path leads to no export, a file is damaged or missing, no graph is of a version that this
            Lite reads, or the tokenizer is another model's.
        ConfigError: a wrong setting.
        DeviceError: there is no Lite, or it cannot load the graph; with Lite's own reason.
    """
    if max_rows is not None:
        logger.warning("max_rows is called max_num_seqs now")
        max_num_seqs = max_rows if max_num_seqs is None else max_num_seqs
    if isinstance(path, Export):
        for key, given in (("increment", increment), ("tokenizer", tokenizer)):
            if given is not None:
                raise ConfigError(key, str(given), "The export has been read already: give it to read_export.")
    export = path if isinstance(path, Export) else read_export(path, increment=increment, tokenizer=tokenizer)
    manifest, folder, config = export.manifest, export.folder, export.config
    settings = read_pair(config_path, target=target, threads=threads, device_id=device_id, rank_id=rank_id)
    runner = LocalRunner() if can_import_here() else Worker(find_python(lite_python), seconds=seconds)
    with contextlib.ExitStack() as undo:
        undo.callback(runner.close)
        version = runner.about()["lite"]
        chosen = choose(manifest, version, folder=folder, named=export.named, prefer_converted=prefer_converted)
        if manifest.weights is not None and any(graph.mind_ir for graph in chosen):
            check_file(folder, manifest.weights)
        for role, graph, how in zip((PREFILL, INCREMENT), chosen, settings, strict=False):
            dtype = _load(runner, role, check_file(folder, graph), graph, how)
        undo.pop_all()
    logger.info("%s in MindSpore Lite %s", ", ".join(graph.name for graph in chosen), version)
    network = _network(runner, manifest, config, dtype, any_length=chosen[0].any_length)
    return LiteChat(_engine(network, export.defaults, max_num_seqs), export.tokenizer, config, manifest)


def choose(
    manifest: Manifest, version: str, *, folder: Path, named: Graph | None = None, prefer_converted: bool = True
) -> list[Graph]:
    """The graphs to load: one that serves both roles, or prefill and increment.

    Raises:
        CheckpointError: none is of a version that this Lite reads.
    """
    if named is not None and not named.mind_ir:
        return [named]
    wanted = (1,) if is_2_0(version) else (3, 1)
    if prefer_converted and is_2_0(version):
        made = [graph for graph in manifest.graphs if not graph.mind_ir and graph.quantization is None]
        if made:
            return made[:1]
    for mind_ir in wanted:
        fitting = [graph for graph in manifest.graphs if graph.mind_ir == mind_ir]
        roles = [graph for role in (PREFILL, INCREMENT) for graph in [g for g in fitting if role in g.roles][:1]]
        if len(roles) == 2:
            return roles[:1] if roles[0].any_length else roles
    there = ", ".join(sorted({str(graph.mind_ir) for graph in manifest.graphs if graph.mind_ir}))
    raise CheckpointError(
        str(folder / (named.name if named else manifest.name)),
        f"the graphs are MindIR of version {there}, and MindSpore Lite {version} reads version {wanted[0]}",
        "Export again with infer.for_lite_2_0: True" if wanted == (1,) else "Export again",
    )


def is_2_0(version: str) -> bool:
    """True for a Lite that reads MindIR of version 1 only."""
    return version.startswith(("1.", "2.0."))


def _load(runner: Worker | LocalRunner, role: str, path: Path, graph: Graph, settings: LiteSettings) -> type:
    """The type of the cache in the loaded model: on x86, Lite 2.0 turns a float16 graph into float32."""
    inputs = runner.load(role, str(path.resolve()), settings._asdict())
    found, expected = [row[0] for row in inputs], [row.name for row in graph.inputs]
    if sorted(found) != sorted(expected):
        fault = f"its inputs are {', '.join(found)} and the manifest says {', '.join(expected)}"
        raise CheckpointError(str(path), fault, "Export again")
    return np.dtype(next(kind for name, _, kind in inputs if name == "past_keys").lower()).type


def _network(
    runner: Worker | LocalRunner, manifest: Manifest, config: NetworkConfig, dtype: type, *, any_length: bool
) -> LiteNetwork:
    return LiteNetwork(
        runner,
        CacheShape(config.num_layers, config.num_kv_heads, config.kv_channels, dtype),
        vocab_size=config.padded_vocab_size,
        max_length=config.seq_length,
        allocate=SharedArray if isinstance(runner, Worker) else np.zeros,
        fixed=None if any_length or manifest.fixed is None else Fixed(**manifest.fixed.model_dump()),
    )


def _engine(network: LiteNetwork, defaults: GenerationConfig, rows: int | None) -> LiteEngine:
    fixed = network.fixed
    if fixed is None:
        return LiteEngine(network, max_num_seqs=rows or _MAX_ROWS, defaults=defaults)
    rows = min(rows or fixed.rows, fixed.rows)
    return LiteEngine(network, max_num_seqs=rows, chunk=fixed.tokens, defaults=defaults)


def _check_pair(manifest: Manifest, folder: Path, increment: str | Path) -> None:
    other, beside, _ = find_manifest(increment)
    if beside.resolve() != folder.resolve() or other.name != manifest.name:
        raise CheckpointError(
            str(increment),
            f"belongs to the export {other.name}, not to {manifest.name}",
            "Name two graphs of one export",
        )


def _tokenizer(
    given: GLMTokenizer | str | Path | None, manifest: Manifest, folder: Path, config: NetworkConfig
) -> GLMTokenizer | None:
    """The tokenizer of the export, or the given one when it is the same.

    Raises:
        CheckpointError: it is another model's, or the exported file is damaged.
    """
    own = manifest.tokenizer
    if given is None:
        if own is None:
            return None
        return _read_tokenizer(own.type, check_file(folder, own).parent)
    kind = own.type if own else FAMILIES.default().tokenizer
    found = given if isinstance(given, GLMTokenizer) else _read_tokenizer(kind, given)
    check_tokenizer(found.vocab_size, config, place=found.vocab_file)
    if own is not None and sha256(Path(found.vocab_file)) != own.sha256:
        fault = f"this is not the tokenizer that {manifest.name} was exported with"
        raise CheckpointError(str(found.vocab_file), fault, f"Leave it out: {folder / own.name} is used then")
    return found


def _read_tokenizer(kind: str, place: str | Path) -> GLMTokenizer:
    made: Any = TOKENIZERS.get(kind, "tokenizer")
    return made.from_pretrained(place)
