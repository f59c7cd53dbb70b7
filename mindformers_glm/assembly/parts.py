"""Which base weights and which adapter a model's name means. An adapter is a model only where its base is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.checkpoint.load import adapter_alone
from mindformers_glm.checkpoint.load.adapter import adapter_settings
from mindformers_glm.checkpoint.load.peft import base_of, other_base
from mindformers_glm.checkpoint.load.resolve import Resolved, resolve
from mindformers_glm.checkpoint.load.run_folder import NETWORK, run_config, run_of
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.errors import CheckpointError, UserError
from mindformers_glm.files import user_path
from mindformers_glm.log import logger


class Parts(NamedTuple):
    """The network's weights, and those of an adapter that come on top of them."""

    base: Resolved
    adapter: Resolved | None = None


def parts_of(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    download: bool | str | None = None,
    revision: str | None = None,
) -> Parts:
    """The weights that a name, file or folder means.

    Where it holds an adapter alone, its base is `base`, or what its own files name: the network of its run, or a model
    by its public name that is on this machine. A path that an adapter's file states is not followed.

    Raises:
        CheckpointError: nothing there, an adapter whose base is not known, or two adapters.
        ConfigError: neither a path nor a name.
    """
    found = resolve(name_or_path, download=download, revision=revision)
    if not is_adapter_alone(found):
        return _matched(Parts(found, None if adapter is None else resolve(adapter)))
    if adapter is not None:
        raise adapter_alone(name_or_path, _told(found))
    told = [] if base is None else [str(base)]
    for candidate in [*told, *_bases(found)]:
        try:
            whole = resolve(candidate, download=download if candidate in told else False)
            if is_adapter_alone(whole):
                continue
        except UserError as error:
            if candidate in told:
                fault = f"it holds an adapter and no network, and its base {candidate} cannot be read ({error})"
                raise CheckpointError(str(name_or_path), fault, "Name another base model.") from error
            continue
        kind = whole.read().kind
        if kind == "weights and adapter":  # the network of the run that trained this adapter has it already
            return Parts(whole)
        logger.info("%s holds an adapter; its base is %s", name_or_path, candidate)
        return _matched(Parts(whole, found))
    raise adapter_alone(name_or_path, _told(found))


def _matched(parts: Parts) -> Parts:
    """The parts, with a warning where the adapter says that it was trained on another base."""
    if parts.adapter is not None and parts.adapter.adapter is not None:
        config = parts.base.files.config
        told = config.checkpoint_name_or_path if config is not None else None
        names = (parts.base.name, told, parts.base.weights)
        if warning := other_base(parts.adapter.adapter, *names):
            logger.warning("%s", warning)
    return parts


def is_adapter_alone(found: Resolved) -> bool:
    """True for a PEFT folder, and for weights that are nothing but LoRA or a prefix."""
    kind = found.read().kind
    return kind == "adapter" or (found.adapter is not None and kind != "weights")


def settings_of(found: Resolved, source: WeightSource, *, lora_alpha: float | None = None) -> dict[str, Any] | None:
    """The `pet_config` of an adapter, None where no file tells the alpha of a LoRA."""
    return adapter_settings(source, found.adapter, found.files.config, lora_alpha)


def _told(found: Resolved) -> str | None:
    """The base that a PEFT folder names."""
    return None if found.adapter is None else base_of(found.adapter)


def _bases(found: Resolved) -> Iterator[str]:
    """What an adapter's own files say of its base, the surest first."""
    run, yaml = run_of(found.weights), run_config(found.weights)
    if run is not None and (run / NETWORK).is_dir():
        yield str(run / NETWORK)
    if yaml is not None:
        values = read_yaml(yaml)
        for key in ("load_checkpoint", "model.model_config.checkpoint_name_or_path"):
            if isinstance(name := lookup(values, key), str) and name:
                yield name
    name = _told(found)
    if name and not user_path(name).exists() and name.count("/") <= 1 and not name.startswith((".", "~", "/")):
        yield name
