"""What lies beside weights: the network's configuration in any of its forms, and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mindformers_glm.checkpoint.load import single_file
from mindformers_glm.checkpoint.load.names import Naming
from mindformers_glm.checkpoint.load.run_folder import places_of, run_config
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.checkpoint.load.storage import Storage
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.pretrained import DESCRIBED
from mindformers_glm.errors import CheckpointError, ConfigError, ConfigErrors
from mindformers_glm.files import read_json
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.registry import CONFIGS, SERVICES
from mindformers_glm.tokenizers import files as tokenizer_files
from mindformers_glm.tokenizers.chatglm import belongs

CONFIG_YAML, CONFIG_JSON, ADAPTER_JSON = "config.yaml", "config.json", "adapter_config.json"
_TOKENIZER_FILES = (*tokenizer_files.VOCABULARIES, tokenizer_files.SETTINGS, "chat_template.jinja")
_OFFICIAL_BITS = (4, 8)


class ModelFiles(NamedTuple):
    """The files of one model beside its weights; None where there is none."""

    config: NetworkConfig | None
    storage: Storage
    config_path: Path | None
    tokenizer: Path | None


def model_files(path: str | Path) -> ModelFiles:
    """What is beside a weights file, or in a folder of weights.

    Raises:
        ConfigError: a configuration is there and describes another network.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    whole = single_file.whole_model(Path(path))
    if whole is not None:
        config = single_file.network_of(whole)
        beside = folder if (folder / tokenizer_files.VOCABULARY).is_file() else None
        return ModelFiles(config, Storage(), whole.path, single_file.tokenizer_of(whole, config) or beside)
    config_path = _config_path(Path(path), folder)
    config, storage = read_config(config_path) if config_path else (None, Storage())
    places = [folder, *places_of(Path(path))]
    tokenizer = next((place for place in places if tokenizer_files.vocabulary_in(place) is not None), None)
    return ModelFiles(config, storage, config_path, tokenizer)


def read_config(path: str | Path) -> tuple[NetworkConfig, Storage]:
    """The network that a config.json, a run's YAML or a saved model's YAML describes, and how it stored its weights.

    Raises:
        ConfigError: unreadable, or not a ChatGLM2/3 configuration.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _read_json(path), Storage()
    values = read_yaml(path)
    section = values.get("model", values)
    section = dict(section.get("model_config", section) if isinstance(section, Mapping) else {})
    flags = {key: bool(section.pop(key)) for key in Storage._fields if key in section}
    section.setdefault("type", FAMILIES.default().config_class().__name__)
    return CONFIGS.build(section, "model.model_config"), Storage(**flags)


def config_file(config: NetworkConfig, form: str, naming: Naming) -> tuple[str, str]:
    """Name and text of the configuration as the readers of a form want it.

    `mf10`: config.yaml with model.arch and model.model_config, and how `naming` keeps the weights; `hf`: the official
    config.json; `native`, `mcore`: the config.json of transformers' GlmForCausalLM.
    """
    if form == "mf10":
        values = to_yaml(config)
        flags = {
            "qkv_concat": not naming.split_qkv,
            "mlp_concat": not naming.split_mlp,
            "use_rearrange_rope": naming.rearranged,
        }
        defaults = Storage()._asdict()
        values["model"]["model_config"].update({k: v for k, v in flags.items() if v != defaults[k]})
        return CONFIG_YAML, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    written = FAMILIES.of(config).written(config, "native" if form == "mcore" else form)
    return CONFIG_JSON, json.dumps(written, indent=2) + "\n"


def to_yaml(config: NetworkConfig) -> dict[str, Any]:
    """The `model` section of a YAML: every key whose value is not the default."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    for key in ("checkpoint_name_or_path", "parallel_config", "batch_size", "use_past"):
        values.pop(key, None)
    shape = ("num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads")
    types = ("seq_length", "param_init_type", "compute_dtype", "layernorm_compute_type")
    stated = {key: getattr(config, key) for key in (*shape, *types)}
    family = FAMILIES.of(config)
    return {
        "model": {
            "model_config": {"type": type(config).__name__, **stated, **values},
            "arch": {"type": family.network.rpartition(":")[2]},
        }
    }


def infer_config(source: WeightSource, *, kv_channels: int = 128) -> NetworkConfig:
    """The network that the shapes of the weights allow, for conversions that need no more than shapes.

    The channels of one head are not in the shapes: they are `kv_channels`, or a common divisor where that cannot be.

    Raises:
        CheckpointError: not the weights of ChatGLM2/3.
    """
    return FAMILIES.inferred(source.names, source.shape, place=str(source.path), kv_channels=kv_channels)


def check_tokenizer(vocab_size: int, config: NetworkConfig, *, place: str | Path) -> None:
    """Passes when a tokenizer of `vocab_size` ids belongs to a network of this configuration.

    Raises:
        CheckpointError: it has more ids than the network has rows, or far fewer.
    """
    rows = config.padded_vocab_size
    if not belongs(vocab_size, rows):
        raise CheckpointError(
            str(place),
            f"the tokenizer has {vocab_size:,} ids and the network {rows:,} rows (padded_vocab_size)",
            "Use the tokenizer that came with these weights.",
        )


def tokenizer_contents(folder: Path) -> dict[str, bytes]:
    """The files of the tokenizer in a folder: name -> content."""
    return {name: (folder / name).read_bytes() for name in _TOKENIZER_FILES if (folder / name).is_file()}


def _config_path(path: Path, folder: Path) -> Path | None:
    candidates = [folder / CONFIG_YAML, folder / CONFIG_JSON]
    if path.is_file():
        candidates = [path.with_suffix(".yaml"), *candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for place in places_of(path):
        for name in (CONFIG_YAML, CONFIG_JSON):
            if (place / name).is_file():
                return place / name
    others = sorted(folder.glob("*.yaml"))
    return others[0] if len(others) == 1 else run_config(path)


def _read_json(path: Path) -> NetworkConfig:
    given = read_json(path)
    if not isinstance(given, dict):
        raise ConfigError(str(path), given, "Expected a JSON object.")
    if given.get("quantization_bit") in _OFFICIAL_BITS:  # the weights beside it are read as floats
        given = {key: value for key, value in given.items() if key != "quantization_bit"}
    try:
        return FAMILIES.read_config(given, path)
    except ConfigErrors as error:
        raise ConfigErrors(str(path), error.errors) from error


def _described(folder: str) -> dict[str, Any]:
    """The section model.model_config that the folder of a model states."""
    found = model_files(folder)
    if found.config is None:
        raise ConfigError("pretrained_model_dir", folder, "There is no config.json. Name the folder of a model.")
    stated = found.config.model_dump(mode="json", exclude_unset=True)
    return {"type": type(found.config).__name__, **stated}


SERVICES[DESCRIBED] = _described
