"""AutoConfig, AutoModel, AutoTokenizer and AutoProcessor: from a name, folder, file or YAML to the object.

A registered name stands for the network that ships with the package, or for weights in `checkpoint_download/`.
YAML files are read where they are, every time; nothing is copied into the current folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.model_files import read_config
from mindformers_glm.checkpoint.peft import read_adapter_config
from mindformers_glm.checkpoint.resolve import Resolved, resolve
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import ASSETS, CONFIGS_DIR, DOWNLOAD_DIR, MODEL_NAMES, model_name
from mindformers_glm.config.vocabulary import FILE as VOCABULARY
from mindformers_glm.config.vocabulary import beside, of_model
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.log import logger
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.initial import fill, unfilled
from mindformers_glm.models.glm.model import build_model
from mindformers_glm.registry import CONFIGS, TOKENIZERS
from mindformers_glm.tokenizers.chatglm import GLMTokenizer
from mindformers_glm.tokenizers.processor import GLMProcessor
from mindformers_glm.tokenizers.recognise import tokenizer_class

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
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> ChatGLM2Config:
        """The configuration of a registered name, a YAML or config.json, or a folder that holds one.

        Raises:
            ConfigError: there is no such name or file, or a value in it is wrong.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix in (*_YAML, ".json"):
            return changed(read_config(path)[0], overrides)
        if path.exists():
            return changed(_config_of(resolve(path)), overrides)
        row = model_name(str(name_or_path), "name_or_path")
        shipped = ASSETS / str(name_or_path) / "config.yaml"
        return changed(read_config(shipped if shipped.is_file() else CONFIGS_DIR / row.yaml)[0], overrides)


class AutoModel(_Listed):
    """A network, with its weights."""

    @classmethod
    def from_config(cls, config: ChatGLM2Config | str | Path, *, download_checkpoint: bool = True) -> nn.Cell:
        """The network of a configuration or YAML file, with the weights that `checkpoint_name_or_path` names.

        A configuration that names none gives random weights, and a log line says so. `download_checkpoint` is
        MindFormers' argument: False leaves the named weights out. Nothing is downloaded in either case.

        Raises:
            ConfigError, CheckpointError: the configuration is wrong, or the weights are missing or do not fit.
        """
        runtime.set_up_if_needed()
        if not isinstance(config, ChatGLM2Config):
            config = AutoConfig.from_pretrained(config)
        with unfilled():
            model = build_model(config).set_train(False)
        if config.checkpoint_name_or_path and download_checkpoint:
            load_into(model, resolve(config.checkpoint_name_or_path).read(), new_adapter=True)
        else:
            fill(model)
            logger.warning("The weights are random: the configuration names no checkpoint.")
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        adapter: str | Path | None = None,
        partial: bool = False,
        download: bool = False,
        **overrides: Any,
    ) -> nn.Cell:
        """The network with weights, of a registered name, a folder (ours, Hugging Face, MindFormers) or a weight file.

        `adapter` is a LoRA or prefix to load on top, and needs `pet_config` among the overrides unless it is a PEFT
        folder, which says so itself. `overrides` are keys of ChatGLM2Config, for example `compute_dtype="float32"`.
        With `partial` names may be missing or left over, which is logged. Nothing is downloaded unless `download`.

        Raises:
            ConfigError, CheckpointError: no such model, or its weights do not fit.
        """
        runtime.set_up_if_needed()
        found = resolve(name_or_path, download=download)
        if found.adapter is not None:
            fix = f"Name the base model, and this folder with adapter={str(name_or_path)!r}."
            raise CheckpointError(str(name_or_path), "it holds an adapter and no network", fix)
        patch = resolve(adapter) if adapter is not None else None
        if patch is not None and patch.adapter is not None:
            overrides = {"pet_config": read_adapter_config(patch.adapter), **overrides}
        with unfilled():
            model = build_model(changed(_config_of(found), overrides)).set_train(False)
        load_into(model, found.read(), partial=partial, new_adapter=adapter is not None)
        if patch is not None:
            load_into(model, patch.read())
        return model


class AutoTokenizer(_Listed):
    """A tokenizer."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> GLMTokenizer:
        """The tokenizer of a registered name, a folder, a sentencepiece file, or a YAML file with `processor`.

        Raises:
            ConfigError, CheckpointError: there is none.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix in _YAML:
            spec = lookup(read_yaml(path), "processor.tokenizer")
            if spec is None:
                raise ConfigError(str(path), None, "The file has no section processor.tokenizer.")
            file = of_model(spec.get("vocab_file")) or spec.get("vocab_file") or beside(str(path))
            return TOKENIZERS.build({**spec, "vocab_file": file, **overrides}, f"{path}: processor.tokenizer")
        if path.is_dir():
            return TOKENIZERS.get(tokenizer_class(path)).from_pretrained(str(path), **overrides)
        if path.is_file():
            kind = overrides.pop("type", "ChatGLM2Tokenizer")
            return TOKENIZERS.build({"type": kind, "vocab_file": str(path), **overrides}, "tokenizer")
        row, file = model_name(str(name_or_path), "name_or_path"), beside(str(name_or_path))
        if file is None:
            fix = f"Put the official tokenizer.model at {DOWNLOAD_DIR / row.family / VOCABULARY}."
            raise CheckpointError(str(name_or_path), "its tokenizer is not on this machine", fix)
        return TOKENIZERS.build({"type": row.tokenizer_type, "vocab_file": file, **overrides}, "tokenizer")


class AutoProcessor(_Listed):
    """A tokenizer with options for padding and tensors."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> GLMProcessor:
        """The processor of a registered name, folder or YAML file.

        Raises:
            ConfigError, CheckpointError: there is none.
        """
        return GLMProcessor(tokenizer=AutoTokenizer.from_pretrained(name_or_path), **overrides)


def changed(config: ChatGLM2Config, overrides: dict[str, Any]) -> ChatGLM2Config:
    """The configuration with some keys replaced, checked again.

    Raises:
        ConfigError: an unknown key, or a value that does not fit.
    """
    return CONFIGS.build({"type": "ChatGLM2Config", **config.model_dump(), **overrides}, "model_config").settled()


def _config_of(found: Resolved) -> ChatGLM2Config:
    if found.files.config is not None:
        return found.files.config
    if found.name in MODEL_NAMES:
        return read_config(CONFIGS_DIR / MODEL_NAMES[found.name].yaml)[0]
    fix = "Put config.json or the YAML it was saved with beside it, or build the network with AutoModel.from_config."
    raise CheckpointError(str(found.weights), "no configuration of the network lies beside the weights", fix)
