"""AutoConfig, AutoModel, AutoTokenizer and AutoProcessor: from a name, folder, file or YAML to the object.

A registered name stands for the network that ships with the package, or for weights in `checkpoint_download/`.
YAML files are read where they are, every time; nothing is copied into the current folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.resolve import resolve_weights
from mindformers_glm.checkpoint.source import read_weights
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import ASSETS, CONFIGS_DIR, DOWNLOAD_DIR, MODEL_NAMES, model_name
from mindformers_glm.config.vocabulary import FILE as VOCABULARY
from mindformers_glm.config.vocabulary import beside
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.log import logger
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import build_model
from mindformers_glm.registry import CONFIGS, MODELS, TOKENIZERS
from mindformers_glm.tokenizers.chatglm import GLMTokenizer
from mindformers_glm.tokenizers.processor import GLMProcessor

_ARCH = "ChatGLM2ForConditionalGeneration"


class AutoConfig:
    """The configuration of a network."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> ChatGLM2Config:
        """The configuration of a registered name, a YAML file, or a folder with config.yaml or config.json.

        Raises:
            ConfigError: there is no such name or file, or a value in it is wrong.
        """
        return CONFIGS.build({**_model_section(name_or_path)["model_config"], **overrides}, "model_config")

    @staticmethod
    def show_support_list() -> list[str]:
        """The registered names, also logged."""
        return _support_list()


class AutoModel:
    """A network, with its weights."""

    @classmethod
    def from_config(cls, config: ChatGLM2Config | str | Path, *, download_checkpoint: bool = True) -> nn.Cell:
        """The network of a configuration or YAML file, with the weights that `checkpoint_name_or_path` names.

        A configuration that names none gives random weights, and a log line says so. `download_checkpoint` is
        MindFormers' argument: False leaves the named weights out. Nothing is downloaded in either case.

        Raises:
            ConfigError, CheckpointError: the configuration is wrong, or the weights are missing or do not fit.
        """
        if not isinstance(config, ChatGLM2Config):
            config = AutoConfig.from_pretrained(config)
        model = build_model(config)
        model.set_train(False)
        if config.checkpoint_name_or_path and download_checkpoint:
            place = resolve_weights(config.checkpoint_name_or_path)
            load_into(model, read_weights(place), new_adapter=True)
        else:
            logger.warning("The weights are random: the configuration names no checkpoint.")
        return model

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, partial: bool = False, **overrides: Any) -> nn.Cell:
        """The network with weights, of a registered name, a folder (ours, Hugging Face, MindFormers) or a file in one.

        `overrides` are keys of ChatGLM2Config, for example `compute_dtype="float32"`. With `partial` names may be
        missing or left over, which is logged.

        Raises:
            ConfigError, CheckpointError: no such model, or its weights do not fit.
        """
        place = resolve_weights(name_or_path)
        section = _model_section(name_or_path)
        config = CONFIGS.build({**section["model_config"], **overrides}, "model_config")
        model = MODELS.get((section.get("arch") or {}).get("type", _ARCH), "model.arch.type")(config)
        model.set_train(False)
        load_into(model, read_weights(_weights_in(place)), partial=partial)
        return model

    @staticmethod
    def show_support_list() -> list[str]:
        """The registered names, also logged."""
        return _support_list()


class AutoTokenizer:
    """A tokenizer."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> GLMTokenizer:
        """The tokenizer of a registered name, a folder, a sentencepiece file, or a YAML file with `processor`.

        Raises:
            ConfigError, CheckpointError: there is none.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix in (".yaml", ".yml"):
            spec = lookup(read_yaml(path), "processor.tokenizer")
            if spec is None:
                raise ConfigError(str(path), None, "The file has no section processor.tokenizer.")
            return TOKENIZERS.build(
                {**spec, "vocab_file": spec.get("vocab_file") or beside(str(path)), **overrides}, ""
            )
        if path.is_dir():
            return TOKENIZERS.get(_tokenizer_type(path)).from_pretrained(str(path), **overrides)
        row = model_name(str(name_or_path), "name_or_path") if not path.is_file() else None
        file = str(path) if row is None else beside(str(name_or_path))
        if file is None:
            place = DOWNLOAD_DIR / row.family / VOCABULARY
            raise CheckpointError(
                str(name_or_path),
                "its tokenizer is not on this machine",
                f"Put the official tokenizer.model at {place}.",
            )
        kind = row.tokenizer_type if row else overrides.pop("type", "ChatGLM2Tokenizer")
        return TOKENIZERS.build({"type": kind, "vocab_file": file, **overrides}, "tokenizer")

    @staticmethod
    def show_support_list() -> list[str]:
        """The registered names, also logged."""
        return _support_list()


class AutoProcessor:
    """A tokenizer with options for padding and tensors."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **overrides: Any) -> GLMProcessor:
        """The processor of a registered name, folder or YAML file.

        Raises:
            ConfigError, CheckpointError: there is none.
        """
        return GLMProcessor(tokenizer=AutoTokenizer.from_pretrained(name_or_path), **overrides)

    @staticmethod
    def show_support_list() -> list[str]:
        """The registered names, also logged."""
        return _support_list()


def _support_list() -> list[str]:
    names = sorted(MODEL_NAMES)
    logger.info("registered names: %s", ", ".join(names))
    return names


def _model_section(name_or_path: str | Path) -> dict[str, Any]:
    """`{"model_config": ..., "arch": ...}` of a name, YAML file, folder, or file beside a configuration."""
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return _section_of(path)
    if path.is_dir():
        return _section_in(path)
    if path.is_file():
        beside_it = [path.with_suffix(".yaml"), *path.parent.glob("config.*")]
        found = next((file for file in beside_it if file.is_file()), None)
        if found is None:
            raise ConfigError("name_or_path", str(path), "No configuration lies beside this file; give its folder.")
        return _section_of(found) if found.suffix == ".yaml" else _official(found)
    row = model_name(str(name_or_path), "name_or_path")
    shipped = ASSETS / str(name_or_path)
    return _section_in(shipped) if shipped.is_dir() else _section_of(CONFIGS_DIR / row.yaml)


def _section_in(folder: Path) -> dict[str, Any]:
    yamls = sorted(folder.glob("*.yaml"))
    if (folder / "config.yaml") in yamls:
        return _section_of(folder / "config.yaml")
    if (folder / "config.json").is_file():
        return _official(folder / "config.json")
    if len(yamls) == 1:
        return _section_of(yamls[0])
    fault = f"It holds {len(yamls)} YAML files" if yamls else "It holds no config.yaml and no config.json"
    raise ConfigError("name_or_path", str(folder), f"{fault}: keep one configuration there.")


def _section_of(path: Path) -> dict[str, Any]:
    section = read_yaml(path).get("model")
    if not isinstance(section, dict) or "model_config" not in section:
        raise ConfigError(str(path), None, "The file has no section model.model_config.")
    return {**section, "model_config": {"type": "ChatGLM2Config", **section["model_config"]}}


def _official(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(str(path), "", f"This is not JSON: {error}.") from None
    config = ChatGLM2Config.from_hf(given).model_dump(exclude_defaults=True)
    return {"model_config": {"type": "ChatGLM2Config", **config}, "arch": {"type": _ARCH}}


def _weights_in(place: Path) -> Path:
    """A folder with one weight file of MindFormers' save_pretrained means that file."""
    files = sorted(place.glob("*.ckpt")) if place.is_dir() else []
    return files[0] if len(files) == 1 else place


def _tokenizer_type(folder: Path) -> str:
    """ChatGLM3's files say so; a folder that says nothing is ChatGLM2's."""
    for name in ("tokenizer_config.json", "config.json"):
        file = folder / name
        if file.is_file() and "chatglm3" in file.read_text(encoding="utf-8").lower().replace("-", ""):
            return "ChatGLM3Tokenizer"
    config = folder / "config.yaml"
    if config.is_file():
        kind = lookup(read_yaml(config), "processor.tokenizer.type")
        if kind:
            return kind
    return "ChatGLM2Tokenizer"
