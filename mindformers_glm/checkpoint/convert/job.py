"""A conversion from what a command line says: paths, a form, a few switches. The tools are thin callers of this."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece

from mindformers_glm.checkpoint.convert.checks import check_adapter, refuse_packed
from mindformers_glm.checkpoint.convert.forms import FORMS, OURS
from mindformers_glm.checkpoint.convert.megatron import MegatronWeights
from mindformers_glm.checkpoint.convert.plan import SHARD_BYTES, ConversionPlan, plan_conversion
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.adapter import adapter_settings
from mindformers_glm.checkpoint.load.folders import is_megatron
from mindformers_glm.checkpoint.load.model_files import (
    Storage,
    check_tokenizer,
    infer_config,
    model_files,
    read_config,
)
from mindformers_glm.checkpoint.load.names import LORA_NAME, NAMINGS, Naming, is_adapter
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.load.source import WeightSource, check_adapter_kinds, read_weights
from mindformers_glm.errors import CheckpointError, ConfigError, listed, shown
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.tokenizers.chatglm import GLM2_SPECIALS
from mindformers_glm.tokenizers.files import VOCABULARY, found, kind, vocabulary_in

KV_CHANNELS = 128
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Opened(NamedTuple):
    """A checkpoint with what is known about its network. `exact` is False when only shapes told the configuration."""

    source: WeightSource | MegatronWeights
    config: NetworkConfig | None
    exact: bool
    pet_config: dict[str, Any] | None
    tokenizer: Path | None


def open_checkpoint(
    name_or_path: str | Path,
    *,
    config: str | Path | None = None,
    rank: int = 0,
    download: bool | str | None = None,
    lora_alpha: float | None = None,
    storage: Storage | None = None,
) -> Opened:
    """A checkpoint by name or path, its network, its adapter's settings and its tokenizer.

    `storage` says how MindFormers kept the weights where no file beside them does.

    Raises:
        CheckpointError, ConfigError: unreadable, or the configuration does not fit.
    """
    if is_megatron(name_or_path):
        return _megatron(Path(name_or_path), config)
    found = resolve(name_or_path, download=download)
    known, kept = found.files.config, found.files.storage
    if config is not None:
        known, given = read_config(config)
        kept = given if found.files.config is None else kept
    kept = storage or kept
    source = read_weights(found.weights, rank=rank)
    if found.adapter is not None and source.kind == "weights and adapter":
        extra = [name for name in source.names if not is_adapter(name)]
        fault = f"{len(extra)} whole tensors beside its LoRA ({listed(extra, 2)}): modules_to_save or bias of peft"
        raise CheckpointError(str(source.path), fault, "Merge it with peft.")
    network = known or _guess(source)
    if kept.use_rearrange_rope and network is None:
        raise ConfigError("config", None, "The order of rows needs the channels of a head: give --config.")
    if kept.use_rearrange_rope:
        source = read_weights(found.weights, rank=rank, rearranged=network)
    pet = adapter_settings(source, found.adapter, network, lora_alpha)
    exact = known is not None or network == NetworkConfig()
    return Opened(source, network, exact, pet, found.files.tokenizer)


def plan_job(
    input_path: str | Path,
    output_path: str | Path,
    form: str,
    *,
    config: str | Path | None = None,
    dtype: str | None = None,
    tokenizer: str | Path | None = None,
    shard_size: str | int = SHARD_BYTES,
    rank: int = 0,
    download: bool | str | None = None,
    lora_alpha: float | None = None,
    read_storage: Storage | None = None,
    write_storage: Storage | None = None,
) -> ConversionPlan:
    """The plan of one conversion.

    `read_storage` and `write_storage` say how MindFormers 1.5 keeps rows and parts, on either side.

    Raises:
        CheckpointError, ConfigError: as `open_checkpoint` and `plan_conversion`.
    """
    opened = open_checkpoint(
        input_path, config=config, rank=rank, download=download, lora_alpha=lora_alpha, storage=read_storage
    )
    if not opened.exact and form not in ("mindformers", "mindformers-1.2", "mindformers-1.5", "peft"):
        raise ConfigError(
            "--config",
            None,
            f"The shapes of {shown(input_path)} do not tell the channels of a head, which {form} writes down: give it.",
        )
    network = opened.config
    if form in OURS and network is not None and any(LORA_NAME in name for name in opened.source.names):
        network = network.model_copy(update={"pet_config": _needed(opened)})
    vocabulary = tokenizer_folder(tokenizer) if tokenizer else opened.tokenizer
    if vocabulary is not None and opened.exact and opened.config is not None:
        check_tokenizer(vocabulary_size(vocabulary), opened.config, place=vocabulary)
    return plan_conversion(
        opened.source,
        output_path,
        form,
        config=network,
        dtype=dtype,
        naming=naming_of(form, write_storage),
        shard_bytes=byte_count(shard_size),
        pet_config=_needed(opened) if form == "peft" else opened.pet_config,
        tokenizer=None if form == "peft" else vocabulary,
        config_is_exact=opened.exact,
    )


def _megatron(path: Path, config: str | Path | None) -> Opened:
    """A Megatron folder, whose network only a configuration tells: the one given, or the one that lies in it."""
    files = model_files(path)
    network = read_config(config)[0] if config is not None else files.config
    if network is None:
        fix = "A Megatron folder does not tell its network: name a YAML or config.json (--config)."
        raise ConfigError("config", None, fix)
    return Opened(MegatronWeights(path, network), network, True, None, files.tokenizer)


def naming_of(form: str, storage: Storage | None) -> Naming | None:
    """The naming of a form, with the parts and row order that `storage` states."""
    if storage is None or form not in FORMS or not form.startswith("mindformers"):
        return None
    naming = NAMINGS[FORMS[form]]
    return Naming(naming.name, not storage.qkv_concat, not storage.mlp_concat, storage.use_rearrange_rope)


def vocabulary_size(folder: Path) -> int:
    """Ids of the tokenizer in a folder: pieces and the special tokens that every model of its kind has."""
    vocabulary = vocabulary_in(folder)
    if vocabulary is not None and kind(vocabulary) != "sentencepiece":
        return tokenizer_from(folder).vocab_size
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(folder / VOCABULARY))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(str(folder / VOCABULARY), "not a sentencepiece model", "Copy it again.") from error
    return processor.GetPieceSize() + len(GLM2_SPECIALS)


def tokenizer_folder(path: str | Path) -> Path:
    """The folder of a tokenizer, from itself, its vocabulary file, or the name of a model that is here.

    Raises:
        CheckpointError: there is none.
    """
    path = found(path)
    folder = path if path.is_dir() else path.parent
    if vocabulary_in(folder) is None:
        raise CheckpointError(
            str(path), f"no {VOCABULARY} there", "Give the folder of the tokenizer, or the name of its model."
        )
    return folder


def byte_count(text: str | int) -> int:
    """Bytes of "2GB", "500MB" or a plain number.

    Raises:
        ConfigError: something else.
    """
    digits = str(text).upper().replace(" ", "")
    unit = next((name for name in sorted(_UNITS, key=len, reverse=True) if digits.endswith(name)), "")
    try:
        count = int(float(digits.removesuffix(unit)) * _UNITS.get(unit, 1))
    except ValueError:
        count = 0
    if count <= 0:
        raise ConfigError("shard_size", text, "Use a number of bytes, or a number with KB, MB or GB.")
    return count


def _guess(source: WeightSource) -> NetworkConfig | None:
    """What the shapes tell; for an adapter alone the 6B network where it fits, otherwise nothing."""
    if source.kind == "nothing":
        check_adapter_kinds(source.path, source.unknown)
        fault = f"no weights of ChatGLM2/3 among its {len(source.unknown)} tensors ({listed(source.unknown, 3)})"
        raise CheckpointError(str(source.path), fault, "Is it another model's file?")
    if source.kind == "adapter":
        try:
            check_adapter(source, source.names, NetworkConfig(), None)
        except CheckpointError:
            return None
        return NetworkConfig()
    if source.official_bits:
        fault = f"{source.packing} weights (packed integers), and no configuration beside them"
        raise CheckpointError(str(source.path), fault, "Give --config, or put the model's config.json beside them.")
    refuse_packed(source, [name for name in source.names if not is_adapter(name)])
    config = infer_config(source, kv_channels=KV_CHANNELS)
    shape = NetworkConfig()
    same = all(getattr(config, key) == getattr(shape, key) for key in ("hidden_size", "ffn_hidden_size", "num_layers"))
    return shape if same and config.padded_vocab_size == shape.padded_vocab_size else config


def _needed(opened: Opened) -> dict[str, Any]:
    if opened.pet_config is None:
        layers = peft.adapted_layers(opened.source.names)
        raise CheckpointError(
            str(opened.source.path),
            f"it has LoRA on {len(layers)} layers ({listed(layers, 2)}), and its alpha is in no file",
            "Give --lora_alpha, or --config with pet_config.",
        )
    return opened.pet_config
