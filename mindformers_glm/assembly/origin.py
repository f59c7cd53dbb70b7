"""The published model that a name, folder, file, run or YAML comes from: its family, and how many tokens it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.assembly.configuration import config_of
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.checkpoint.load.resolve import Resolved
from mindformers_glm.checkpoint.load.run_folder import run_config
from mindformers_glm.config import RunConfig, load_config
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import published_length
from mindformers_glm.files import read_json
from mindformers_glm.models.family import FAMILIES, Family
from mindformers_glm.models.recognise import family_named

_MOST = 131072  # the rotary table is made for every position; nothing that is evaluated is longer
_YAML = (".yaml", ".yml")
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".gguf", ".npz")


class Origin(NamedTuple):
    """`length` in tokens and `family` (a name of models/family.py); None where nothing tells them.

    `stamp` tells weights apart by their files' names, sizes and times; None for random ones.
    """

    length: int | None
    family: str | None
    stamp: str | None


def origin_of(model: str) -> Origin:
    """What names, configurations and runs say of a model.

    A model that was tuned on short rows keeps the length of its base: rotary positions have no weights.

    Raises:
        UserError: there is no such model.
    """
    if Path(model).suffix in _YAML:
        return origin_of_config(load_config(model, ["run_mode=predict"]))
    base = parts_of(model).base
    names = [model, base.name, *_names(base)]
    return origin_by_names(names, config_of(base).seq_length, base, _by_config(base))


def origin_of_config(config: RunConfig) -> Origin:
    """The same for the model of a run's configuration.

    Raises:
        UserError: its weights are not there.
    """
    shape = config.network.config
    name = config.load_checkpoint or shape.get("checkpoint_name_or_path")
    base = None if not name else parts_of(name).base
    names = [shape.get("checkpoint_name_or_path"), config.load_checkpoint, *(() if base is None else _names(base))]
    return origin_by_names(names, shape.get("seq_length") or 0, base, None)


def origin_by_names(names: Sequence[Any], stated: int, base: Resolved | None, told: str | None) -> Origin:
    """Where a model comes from, as its names tell; `stated` tokens of context and the family `told` go before them."""
    names = [name for name in names if isinstance(name, str) and name]
    known = [length for name in names if (length := published_length(name)) is not None]
    length = min(max([*known, stated]), max(_MOST, stated)) if known else None
    family = told or next((found.name for name in names if (found := family_named(name))), None)
    return Origin(length, family, None if base is None else _stamp(base.weights))


def _stamp(weights: Path) -> str:
    files = sorted(path for path in weights.rglob("*") if path.is_file()) if weights.is_dir() else [weights]
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.suffix in _WEIGHTS]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _names(base: Resolved) -> Iterator[Any]:
    """The models that the files beside weights name as what they are, or come from."""
    yield base.files.config and base.files.config.checkpoint_name_or_path
    if base.files.config_path is not None and base.files.config_path.suffix == ".json":
        yield read_json(base.files.config_path).get("_name_or_path")
    yaml = run_config(base.weights)
    if yaml is not None:
        for key in ("load_checkpoint", "model.model_config.checkpoint_name_or_path"):
            yield lookup(read_yaml(yaml), key)


def _by_config(base: Resolved) -> str | None:
    """The family of a config.json; what is only not another is told by its name."""
    if base.files.config_path is None or base.files.config_path.suffix != ".json":
        return None
    family: Family = FAMILIES.of_config(read_json(base.files.config_path))
    return None if family.name == "chatglm2" else family.name
