"""AutoConfig, AutoModel, AutoTokenizer and AutoProcessor: from a name, folder, file or YAML to the object.

A registered name stands for the network that ships with the package, or for a public model, which is kept in
`checkpoint_download/`. YAML files are read where they are, every time. The road itself is `assembly/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.configuration import changed, config_of
from mindformers_glm.assembly.keywords import taken
from mindformers_glm.assembly.network import empty_network, load_network
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.tokenizer import load_tokenizer
from mindformers_glm.checkpoint.load.model_files import model_files, read_config
from mindformers_glm.checkpoint.load.resolve import downloaded, plain_name, row_of
from mindformers_glm.config.names import ASSETS, CONFIGS_DIR, MODEL_NAMES
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.log import logger
from mindformers_glm.models.initial import fill
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.processor import GLMProcessor

_YAML = (".yaml", ".yml")


class _Listed:
    @staticmethod
    def show_support_list() -> list[str]:
        """The registered names, also logged."""
        names = sorted(MODEL_NAMES)
        logger.info("registered names: %s", ", ".join(names))
        return names


class AutoConfig(_Listed):
    """The configuration of a network."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> NetworkConfig:
        """The configuration of a registered name, a hub id, a YAML or config.json, or a folder that holds one.

        Arguments of transformers' from_pretrained are accepted (assembly/keywords.py).

        Raises:
            ConfigError: there is no such name or file, or a value in it is wrong.
        """
        words = taken(overrides)
        overrides = {**words.changes, **overrides}
        path = user_path(name_or_path)
        if path.suffix in (*_YAML, ".json"):
            return changed(read_config(path)[0], overrides)
        if path.exists():
            found = model_files(path).config
            return changed(config_of(parts_of(path).base) if found is None else found, overrides)
        name = plain_name(name_or_path)
        here = downloaded(name) if "/" in name else None
        if here is not None:
            return changed(config_of(parts_of(here).base), overrides)
        row = row_of(name, "name_or_path")
        if row is None:
            fix = "AutoModel.from_pretrained obtains the model; or give a path."
            raise CheckpointError(name, "its configuration is not on this machine", fix)
        shipped = ASSETS / name / "config.yaml"
        return changed(read_config(shipped if shipped.is_file() else CONFIGS_DIR / row.yaml)[0], overrides)


class AutoModel(_Listed):
    """A network, with its weights."""

    @classmethod
    def from_config(
        cls, config: NetworkConfig | str | Path, *, download_checkpoint: bool = True, **ignored: Any
    ) -> nn.Cell:
        """The network of a configuration or YAML file, with the weights that `checkpoint_name_or_path` names.

        A configuration that names none gives random weights, and a log line says so. `download_checkpoint` is
        MindFormers' argument: False leaves the named weights out.

        Raises:
            ConfigError, CheckpointError: the configuration is wrong, or the weights are missing or do not fit.
        """
        runtime.set_up_if_needed()
        words = taken(ignored)
        if ignored:
            raise ConfigError(f"from_config: {next(iter(ignored))}", None, "Set it in the configuration.")
        if not isinstance(config, NetworkConfig):
            config = AutoConfig.from_pretrained(config)
        config = changed(config, words.changes) if words.changes else config
        if config.checkpoint_name_or_path and download_checkpoint:
            name = config.checkpoint_name_or_path
            asked = None if name in MODEL_NAMES else False  # an official config.json names where it came from
            return load_network(name, config=config, is_own=True, download=asked)
        model = empty_network(config)
        fill(model)
        logger.warning("The weights are random: the configuration names no checkpoint.")
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        adapter: str | Path | None = None,
        lora_alpha: float | None = None,
        partial: bool = False,
        download: bool | str | None = None,
        config: NetworkConfig | str | Path | None = None,
        **overrides: Any,
    ) -> nn.Cell:
        """The network with weights, of a registered name, a hub id, a folder, a weight file or a run's output folder.

        `adapter` is a LoRA or prefix to load on top: a PEFT folder, an official P-Tuning folder, or a checkpoint, whose
        `lora_alpha` must be given where no file tells it. `overrides` are keys of NetworkConfig, for example
        `compute_dtype="float32"`; arguments of transformers' from_pretrained are accepted (assembly/keywords.py).
        With `partial` names may be missing or left over, which is logged. A public model that is not on this machine
        is fetched into `checkpoint_download/`; `download` and the environment govern that, see load/resolve.py.

        Raises:
            ConfigError, CheckpointError: no such model, or its weights do not fit.
        """
        runtime.set_up_if_needed()
        words = taken(overrides)
        if config is not None and not isinstance(config, NetworkConfig):
            config = AutoConfig.from_pretrained(config)
        return load_network(
            name_or_path,
            adapter=adapter,
            lora_alpha=lora_alpha,
            partial=partial,
            config=config,
            download=False if words.local_only else download,
            revision=words.revision,
            **{**words.changes, **overrides},
        )


class AutoTokenizer(_Listed):
    """A tokenizer."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> GLMTokenizer:
        """The tokenizer of a registered name, a hub id, a folder, a run's output folder, a sentencepiece file, or a
        YAML file with `processor`.

        Arguments of transformers' from_pretrained are accepted (assembly/keywords.py).

        Raises:
            ConfigError, CheckpointError: there is none.
        """
        words = taken(overrides)
        return load_tokenizer(
            name_or_path, download=False if words.local_only else None, revision=words.revision, **overrides
        )


class AutoProcessor(_Listed):
    """A tokenizer with options for padding and tensors."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> GLMProcessor:
        """The processor of a registered name, folder or YAML file.

        Raises:
            ConfigError, CheckpointError: there is none.
        """
        return GLMProcessor(tokenizer=AutoTokenizer.from_pretrained(name_or_path), **overrides)
