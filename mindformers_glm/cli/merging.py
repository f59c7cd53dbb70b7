"""The work of `mindformers-glm merge-lora`: a base plus its adapter, written and compared with what it should be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from mindformers_glm.checkpoint.convert.job import open_checkpoint
from mindformers_glm.checkpoint.convert.merge import MergedSource, logits_differ
from mindformers_glm.checkpoint.convert.plan import plan_conversion
from mindformers_glm.checkpoint.load.names import LORA_NAME
from mindformers_glm.checkpoint.load.peft import CONFIG, base_of, other_base
from mindformers_glm.checkpoint.load.source import WeightSource, check_adapter_kinds, read_weights
from mindformers_glm.cli.conversions import carried_out
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig

_LOGITS_BYTES = 4 * 10**9  # two float32 networks up to this size are built for the comparison of logits
_LIMIT = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}  # in standard deviations of the logits


def merge(args: argparse.Namespace) -> None:
    """Merges as the options of `merge_lora` say, writes, compares.

    Raises:
        CheckpointError, ConfigError: base and adapter do not go together, or what was written is not their sum.
    """
    base = open_checkpoint(args.base, config=args.config, lora_alpha=args.lora_alpha)
    adapter = open_checkpoint(args.adapter, lora_alpha=args.lora_alpha) if args.adapter else base
    if base.config is None:
        raise ConfigError("base", args.base, "It is an adapter alone: name the base weights.")
    pet_config = dict(adapter.pet_config or base.pet_config or {})
    weights, added = cast(WeightSource, base.source), cast(WeightSource, adapter.source)  # Megatron answers alike
    pet_config = _scaled(pet_config, added, args.lora_scaling)
    folder = _peft_folder(args.adapter)
    trained_on = base_of(folder) if folder else None
    warning = other_base(folder, args.base, base.config.checkpoint_name_or_path, base.source.path) if folder else None
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    config = base.config.model_copy(update={"pet_config": None})
    merged = MergedSource(weights, added, config, pet_config, dtype=args.dtype)
    form = args.to or ("mindformers" if args.output_path.endswith(".ckpt") else "ours")
    if not base.exact and not form.startswith("mindformers"):
        raise ConfigError("config", None, f"The shapes do not tell the channels of a head: {form} needs --config.")
    plan = plan_conversion(
        merged,
        args.output_path,
        form,
        config=config,
        dtype=args.dtype,
        tokenizer=base.tokenizer,
        config_is_exact=base.exact,
    )
    print(
        f"base {base.source.path}, adapter {adapter.source.path}"
        + (f" (of {trained_on})" if trained_on else "")
        + f": {len(merged.layers)} layers, scale {merged.scale:g}"
    )
    path = carried_out(plan, dry_run=args.dry_run, overwrite=args.overwrite)
    if path is not None:
        compare(merged, path, args.verify, config, pet_config, exact=base.exact)


def compare(
    merged: MergedSource, path: Path, kind: str, config: NetworkConfig, pet_config: dict[str, Any], *, exact: bool
) -> None:
    """Prints how far the written weights are from base plus adapter.

    Raises:
        CheckpointError: further than rounding explains; the output is not to be used.
    """
    if kind == "none":
        return
    written = read_weights(path)
    checks = merged.check_layers(written)
    print(f"layers agree: largest relative difference {max(check.error for check in checks):.2g}")
    size = 4 * sum(int(np.prod(merged.shape(name))) for name in merged.names)
    if kind == "layers" or (kind == "auto" and (size > _LOGITS_BYTES or not exact)):
        return
    tokens = np.random.default_rng(0).integers(3, config.padded_vocab_size, (2, min(16, config.seq_length)))
    adapted = config.model_copy(update={"pet_config": {**pet_config, "lora_dropout": 0.0}})
    parts = () if merged.adapter is merged.base else (merged.adapter,)
    from mindformers_glm.assembly.network import network_logits  # noqa: PLC0415 - merging itself needs no network

    wanted = network_logits(merged.base, adapted, tokens, *parts)
    error = logits_differ(wanted, network_logits(written, config, tokens))
    limit = max(_LIMIT[written.dtype(f"{layer}.weight")] for layer in merged.layers)  # an embedding may be float32
    print(f"logits agree: largest difference {error:.2g} standard deviations (limit {limit})")
    if not error <= limit:
        raise CheckpointError(str(path), f"its logits differ by {error:.2g} standard deviations", "Do not use it.")


def _peft_folder(adapter: str | None) -> Path | None:
    """The folder of adapter_config.json, of an adapter given as folder or file."""
    if adapter is None:
        return None
    path = user_path(adapter)
    folder = path if path.is_dir() else path.parent
    return folder if (folder / CONFIG).is_file() else None


def _scaled(pet_config: dict, adapter: WeightSource, scaling: float | None) -> dict:
    """The adapter's settings, with alpha from --lora_scaling where that is given.

    Raises:
        CheckpointError: there is no adapter.
        ConfigError: neither a file nor an argument tells alpha.
    """
    check_adapter_kinds(adapter.path, adapter.unknown)
    down = next((name for name in adapter.names if name.endswith(LORA_NAME + "a")), None)
    if down is None:
        raise CheckpointError(str(adapter.path), "it has no LoRA", "Give the adapter that is to be merged.")
    if scaling is not None:
        rank = adapter.shape(down)[0]
        told = {"target_modules": f"{FAMILIES.default().adapted}$", **pet_config, "use_rslora": False}
        return {**told, "lora_rank": rank, "lora_alpha": scaling * rank}
    if "lora_alpha" not in pet_config:
        raise ConfigError("lora_alpha", None, "No file tells it: give --lora_alpha or --lora_scaling.")
    return pet_config
