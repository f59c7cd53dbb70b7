"""Exports a network as MindIR: `mindformers-glm export --config_path configs/glm2/export_glm2_6b.yaml`.

Every key of the YAML can be set after the options, as with run_mindformer.py: --infer.dynamic True.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_glm.cli.options import Parser
from mindformers_glm.cli.run import run
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path

# option -> the words that run_mindformer.py takes for it
PASSED = {
    "config_path": "--config",
    "batch_size": "--batch_size",
    "device_id": "--device_id",
    "device_target": "--device_target",
    "load_checkpoint": "--load_checkpoint",
    "output_dir": "--output_dir",
    "model_type": "--infer.model_type",
    "merge_lora": "--infer.merge_lora",
    "dynamic": "--infer.dynamic",
}
_WEIGHTS = (".ckpt", ".safetensors")


def parser() -> argparse.ArgumentParser:
    """The options, those of MindFormers first."""
    parsed = Parser(description=__doc__)
    parsed.add_argument("--config_path", metavar="YAML", help="configuration with model and infer sections")
    parsed.add_argument("--model_dir", metavar="DIR", help="folder with one YAML and one checkpoint, instead")
    parsed.add_argument("--batch_size", metavar="N", help="sequences at once [model.model_config.batch_size]")
    parsed.add_argument("--model_type", metavar="TYPE", help="MINDIR, or mindir_lite for a .ms file besides")
    parsed.add_argument("--device_id", metavar="N", help="number of the device")
    parsed.add_argument("--device_target", metavar="NAME", help="CPU or Ascend: where the graph is traced")
    parsed.add_argument("--load_checkpoint", metavar="PATH", help="weights, instead of those the YAML names")
    parsed.add_argument("--output_dir", metavar="DIR", help="logs and the resolved configuration")
    parsed.add_argument("--dtype", metavar="TYPE", help="float32 or float16: type of weights and of computing")
    parsed.add_argument("--merge_lora", metavar="BOOL", help="add LoRA to the weights; otherwise it stays in the graph")
    parsed.add_argument("--dynamic", metavar="BOOL", help="one graph of any length instead of two of fixed lengths")
    return parsed


def words_of(args: argparse.Namespace, free: list[str]) -> list[str]:
    """The command line of run_mindformer.py that does the same.

    Raises:
        ConfigError: neither a YAML nor a folder with one.
    """
    if args.model_dir:
        args.config_path, args.load_checkpoint = files_of(user_path(args.model_dir), args)
    if not args.config_path:
        raise ConfigError("--config_path", None, "Name a YAML, for example configs/tiny/export_glm2_tiny.yaml.")
    if args.model_type:
        args.model_type = args.model_type.lower()
    words = ["--run_mode", "export"]
    for name, flag in PASSED.items():
        if getattr(args, name) is not None:
            words += [flag, getattr(args, name)]
    if args.dtype:
        for key in ("param_init_type", "compute_dtype"):
            words += [f"--model.model_config.{key}", args.dtype]
    return words + free


def files_of(folder: Path, args: argparse.Namespace) -> tuple[str, str]:
    """The YAML and the weights in a folder, unless they are named.

    Raises:
        ConfigError: there is not one of each.
    """
    yaml = [args.config_path] if args.config_path else sorted(folder.glob("*.yaml"))
    weights = [file for suffix in _WEIGHTS for file in sorted(folder.glob("*" + suffix))]
    weights = [args.load_checkpoint] if args.load_checkpoint else weights
    if len(yaml) != 1 or len(weights) != 1:
        fix = f"It must hold one YAML and one checkpoint; there are {len(yaml)} and {len(weights)}."
        raise ConfigError("--model_dir", str(folder), fix)
    return str(yaml[0]), str(weights[0])


def main(arguments: list[str] | None = None) -> None:
    """Exports, and prints what was written."""
    args, free = parser().parse_known_args(arguments)
    print(run(words_of(args, free)))
