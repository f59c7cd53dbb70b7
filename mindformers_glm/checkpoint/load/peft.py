"""Adapters as the `peft` package keeps them: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.adapters.config import read_pet_config
from mindformers_glm.checkpoint.load.names import LORA_NAME
from mindformers_glm.checkpoint.load.separate_lora import separate_parts
from mindformers_glm.errors import CheckpointError, ConfigError, listed, shorten
from mindformers_glm.files import read_json
from mindformers_glm.log import logger
from mindformers_glm.models.family import FAMILIES

VARIANTS = ("use_rslora", "use_dora")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What peft can do to LoRA that would change the numbers and that this network has not: key -> values that are harmless.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None, {}),
    "kasa_config": (None, {}),
    "monteclora_config": (None, {}),
}
# Kinds of initialisation that leave the base weights as they are; pissa, olora, corda, loftq and lora_ga subtract the
# first adapter from them, so that the adapter belongs to a base which is not the published one.
_PLAIN_STARTS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
_HARMLESS = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "inference_mode", "auto_mapping"),
    *("init_lora_weights", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "velora_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
    *("use_dora", "use_rslora", "peft_version", "lora_dtype", "lorap_lr_ratio", "model_type", "tuner_backend"),
}
_SEPARATE = {"q_proj", "k_proj", "v_proj"}
_NATIVE_LEAVES = _SEPARATE | {"o_proj", "gate_up_proj", "down_proj"}
_FAMILY = re.compile(r"(codegeex|glm)[-_]?(\d)(?!\d)(?:.*?-(32k|128k|1m)\b)?")


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """The `pet_config` that an adapter_config.json stands for: lora_rank, lora_alpha, lora_dropout, target_modules.

    Raises:
        CheckpointError: no LoRA, or a variant of LoRA that changes the numbers (PiSSA, rank patterns, ...).
    """
    path = Path(folder) / CONFIG
    given = read_json(path)
    kind = given.get("peft_type", "none") if isinstance(given, dict) else "none"
    if kind != "LORA":
        raise CheckpointError(str(path), f"the adapter is of type {shorten(kind)}", "Only LORA is read.")
    missing = [key for key in ("r", "lora_alpha") if given.get(key) is None]
    if missing:
        raise CheckpointError(str(path), f"not the configuration of a LoRA ({missing[0]} is missing)", "Copy it again.")
    _check_plain(path, given)
    parts = _parts(given, Path(folder))
    variants = {key: given[key] for key in VARIANTS if given.get(key)}
    grown = math.sqrt(parts) if variants.get("use_rslora") else parts  # the rank grows by `parts`, scaling must not
    config = {
        "pet_type": "lora",
        "lora_rank": given["r"] * parts if isinstance(given["r"], int) else given["r"],
        "lora_alpha": given["lora_alpha"] * grown
        if isinstance(given["lora_alpha"], (int, float))
        else given["lora_alpha"],
        "lora_dropout": given.get("lora_dropout") or 0.0,
        "target_modules": _targets(given, Path(folder)),
        **variants,
    }
    try:
        read_pet_config(config)
    except ConfigError as error:
        raise CheckpointError(str(path), f"not the configuration of a LoRA ({error})", "Copy it again.") from error
    return config


def base_of(folder: str | Path) -> str | None:
    """The base model that an adapter_config.json names, as it was written there; None where it names none."""
    given = read_json(Path(folder) / CONFIG)
    base = given.get("base_model_name_or_path") if isinstance(given, dict) else None
    return base if isinstance(base, str) and base else None


def other_base(folder: str | Path, *base: str | Path | None) -> str | None:
    """A warning when an adapter names another model than its base is; None when they agree or nothing is known.

    `base` are the words that name the base: what the user wrote, what its configuration calls itself, its folder. The
    weights of all ChatGLM2 and ChatGLM3 of 6B have the same shapes, so that nothing else tells them apart.
    """
    told = base_of(folder)
    trained = model_of(told or "")
    given = next(((word, model_of(str(word))) for word in base if word and model_of(str(word))), None)
    if trained is None or given is None or trained == given[1]:
        return None
    return (
        f"{folder}: the adapter was trained on {told}, and the base is {given[0]}: shapes agree, results will not. "
        "Give the base that it was trained on."
    )


def model_of(name: str) -> str | None:
    """Which public model a name or path means ("glm3", "glm2-32k", "codegeex2"); None when it does not say."""
    for part in reversed(re.split(r"[/\\]", name.lower()[-400:])):
        found = _FAMILY.search(part)
        if found:
            return f"{found[1]}{found[2]}" + (f"-{found[3]}" if found[3] else "")
    return None


def _check_plain(path: Path, given: Mapping[str, Any]) -> None:
    """Passes when the adapter is W + (alpha / r) B A and nothing else, on the base that was published.

    Raises:
        CheckpointError: names the key that says otherwise.
    """
    for key, harmless in _PLAIN.items():
        if given.get(key) not in harmless:
            fix = "This variant of LoRA is not implemented; merge it with peft."
            raise CheckpointError(str(path), f"{key} is {shorten(given[key])}", fix)
    start = given.get("init_lora_weights")
    if not isinstance(start, (bool, str, type(None))) or str(start).lower() not in _PLAIN_STARTS:
        fix = (
            "peft changed the base weights when this adapter began: merge it with peft, or save it there as plain LoRA "
            "(path_initial_model_for_weight_conversion)."
        )
        raise CheckpointError(str(path), f"init_lora_weights is {shorten(start)}", fix)
    unknown = [key for key in given if key not in _HARMLESS and key not in _PLAIN and given[key]]
    if unknown:
        logger.warning("%s: keys that are not known here and were not looked at: %s", path, listed(sorted(unknown)))


def _targets(given: Mapping[str, Any], folder: Path) -> str:
    """`target_modules` as a pattern of ours: layers by their own names, or, where the file is more exact, by path.

    Regular expressions and choices of layers are not interpreted: the tensors say which layers they belong to.
    """
    targets = given.get("target_modules") or [FAMILIES.default().adapted]
    chosen = any(given.get(key) not in (None, [], "") for key in ("layers_to_transform", "exclude_modules"))
    native = not isinstance(targets, list) or any(str(name).rpartition(".")[2] in _NATIVE_LEAVES for name in targets)
    if (
        not chosen
        and not native
        and isinstance(targets, list)
        and all(isinstance(name, str) and "." not in name for name in targets)
    ):
        return "|".join(f"{re.escape(name)}$" for name in sorted(targets))
    from mindformers_glm.checkpoint.load.source import read_weights  # noqa: PLC0415 - opens the tensors only where needed

    layers = adapted_layers(read_weights(folder).names)
    if not layers:
        raise CheckpointError(str(folder), "it has no LoRA", "Give a LoRA of ChatGLM2 or ChatGLM3.")
    return exact_targets(layers)


def _parts(given: Mapping[str, Any], folder: Path) -> int:
    """How many LoRA of the file become one here: on query, key and value apart; see separate_lora.py."""
    targets = given.get("target_modules")
    if isinstance(targets, list) and not any(isinstance(name, str) and name in _SEPARATE for name in targets):
        return 1
    from mindformers_glm.checkpoint.load.source import files_in  # noqa: PLC0415 - opens the tensors only where needed

    return separate_parts(name for file in files_in(folder) for name in file.entries)


def exact_targets(layers: Iterable[str]) -> str:
    """A pattern for `target_modules` that selects these layers, given by path, and no other."""
    numbers: dict[str, list[str]] = {}
    for layer in layers:
        head, found, tail = layer.partition(".layers.")
        number, _, name = tail.partition(".")
        key = re.escape(head + found) + "{}" + re.escape("." + name) if found else re.escape(layer)
        numbers.setdefault(key, []).append(number)
    patterns = (key.replace("{}", f"(?:{'|'.join(sorted(those, key=int))})") if "{}" in key else key
                for key, those in numbers.items())  # fmt: skip
    return "|".join(f"{pattern}$" for pattern in patterns)


def adapter_config(pet_config: Mapping[str, Any], layers: list[str], *, base: str | None = None) -> dict[str, Any]:
    """The content of an adapter_config.json; `layers` are the adapted layers' names, which give the targets.

    Raises:
        ConfigError: `pet_config` is no LoRA.
    """
    pet = read_pet_config(pet_config)
    if pet.pet_type != "lora":
        raise ConfigError("pet_config.pet_type", pet.pet_type, "Only lora has a form in peft.")
    alpha = int(pet.lora_alpha) if float(pet.lora_alpha).is_integer() else pet.lora_alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": pet.lora_rank,
        "lora_alpha": alpha,
        "lora_dropout": pet.lora_dropout,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in layers}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": pet.use_dora,
        "use_rslora": pet.use_rslora,
    }


def peft_name(ours: str) -> str:
    """The name in peft of one of our LoRA parameters."""
    layer, _, letter = ours.partition(LORA_NAME)
    if letter == "m":
        return f"{_PREFIX}{layer}.lora_magnitude_vector"
    return f"{_PREFIX}{layer}.lora_{letter.upper()}.weight"


def adapted_layers(names: list[str]) -> list[str]:
    """The layers that have LoRA parameters among `names`."""
    return sorted({name.partition(LORA_NAME)[0] for name in names if LORA_NAME in name})
