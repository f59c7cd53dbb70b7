"""From the flags of another trainer to a configuration of ours: printed, written beside the run, and carried out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import merge, read_yaml
from mindformers_glm.config.names import CONFIGS_DIR
from mindformers_glm.config.overrides import nest
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path, write_text

_ROOT = Path(__file__).resolve().parents[3]
_BASE = ("run.yaml",)


def of_model(model: str, *, bases: Iterable[str], device_target: str, seq_length: int) -> dict[str, Any]:
    """The values of base files, with the network, the tokenizer and the weights of a model folder or name over them.

    Raises:
        UserError: there is no such model, or nothing tells its shape or its tokenizer.
    """
    from mindformers_glm.assembly.parts import parts_of  # noqa: PLC0415 - brings what reads weights
    from mindformers_glm.checkpoint.load.model_files import to_yaml  # noqa: PLC0415
    from mindformers_glm.models.recognise import tokenizer_class  # noqa: PLC0415
    from mindformers_glm.tokenizers.files import vocabulary_in  # noqa: PLC0415

    base = parts_of(model).base
    found = base.files
    if found.config is None:
        raise ConfigError("model", model, "No configuration lies beside its weights: add its config.json.")
    if found.tokenizer is None:
        raise ConfigError("model", model, "No tokenizer lies beside its weights: add its tokenizer.model.")
    values: dict[str, Any] = {}
    for name in (*_BASE, *bases, *(("cpu.yaml",) if device_target == "CPU" else ())):
        values = merge(values, read_yaml(CONFIGS_DIR / "base" / name))
    network = to_yaml(found.config)["model"]
    network["model_config"]["seq_length"] = seq_length
    if device_target == "CPU":
        network["model_config"].update(compute_dtype="float32", param_init_type="float32")
    tokenizer = {"type": tokenizer_class(found.tokenizer), "vocab_file": str(vocabulary_in(found.tokenizer))}
    processor = {"type": "GLMProcessor", "tokenizer": tokenizer}
    values = merge(values, {"model": network, "load_checkpoint": str(base.weights), "processor": processor})
    for section in ("train_dataset", "eval_dataset"):
        if section in values:
            values = merge(values, {section: {"tokenizer": tokenizer}})
    return values


def laid_over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with `{"a.b": value}` over them."""
    return merge(values, nest(list(changes.items())))


def show(translated: Iterable[tuple[str, str]], ignored: Iterable[tuple[str, str]]) -> None:
    """A line for every flag: the key that it became, or why it has no effect."""
    for flag, key in translated:
        print(f"{flag} -> {key}")
    for flag, reason in ignored:
        print(f"{flag}: no effect ({reason})")


def carry_out(values: Mapping[str, Any], output_dir: str, *, ranks: int = 1, mode: str = "finetune") -> int:
    """Writes the configuration into the output folder, says where, and runs it, on several ranks through the script.

    Returns the exit status.

    Raises:
        ConfigError: several ranks are wanted and the launch scripts are not here (a wheel has none).
    """
    output = user_path(output_dir)
    file = output / "translated.yaml"
    text = yaml.safe_dump({**values, "output_dir": str(output)}, sort_keys=False, allow_unicode=True)
    output.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    print(f"configuration: {file}", flush=True)
    if ranks == 1:
        from mindformers_glm.cli.run import run  # noqa: PLC0415 - needs MindSpore

        run(["--config", str(file), "--run_mode", mode])
        return 0
    script = _ROOT / "scripts" / "run_distribute.sh"
    if not script.is_file():
        fix = "Several processes are started by scripts/run_distribute.sh of a checkout, which is not here."
        raise ConfigError("processes", ranks, fix)
    table = os.environ.get("RANK_TABLE_FILE", "none")
    command = ["bash", str(script), table, str(file), f"[0,{ranks}]", mode]
    return subprocess.call(command, env={**os.environ, "PYTHON": sys.executable})


def precision(values: Mapping[str, Any], device_target: str, *, half: str | None) -> dict[str, Any]:
    """Keys of mixed precision (`half`: float16, bfloat16 or None) on a device; what the CPU does instead is said."""
    if half is None or lookup(values, "model.model_config.compute_dtype") is None:
        return {}
    if device_target == "CPU":
        print(f"{half}: this CPU computes in float32")
        return {}
    scale = {"runner_wrapper.scale_sense": 1.0} if half == "bfloat16" else {}
    return {"model.model_config.compute_dtype": half, "model.model_config.param_init_type": "float32", **scale}


def device_of(asked: str | None) -> str:
    """CPU or Ascend: what was asked for, or what MindSpore finds on this machine."""
    if asked is not None:
        return "CPU" if asked.lower() == "cpu" else "Ascend"
    return "Ascend" if Path("/dev/davinci_manager").exists() else "CPU"
