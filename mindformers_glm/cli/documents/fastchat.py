"""FastChat's trainer and terminal chat, with their flags.

    python tools/fastchat_train.py --model_name_or_path chatglm3-6b --data_path data.json --output_dir out ...
    python tools/fastchat_cli.py --model-path chatglm3-6b --device cpu --temperature 1e-6

The data is ShareGPT JSON, or anything else that `inspect-data` recognises. Every flag is translated into our
configuration, which is printed and kept as OUTPUT_DIR/translated.yaml. Masks come from the parts of a conversation, not
from its text tokenised again, so nothing mismatches. See docs/migration.md.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mindformers_glm.cli import chat
from mindformers_glm.cli.documents.training import carry_out, device_of, laid_over, of_model, precision, show
from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path

_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant_with_warmup",
    "polynomial": "polynomial",
}
_NEVER = 2**31 - 1


def switch(text: str) -> bool:
    """True or False as transformers' parser reads them, for `type=` of an option."""
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give True or False")
    return text.lower() in ("true", "1", "yes")


class Flag(NamedTuple):
    """A flag with a key of ours that takes its value unchanged."""

    name: str
    key: str
    kind: Callable[[str], Any]
    default: Any
    help: str


FLAGS = (
    Flag("num_train_epochs", "runner_config.epochs", number(above=True), 3.0, "passes over the data (3)"),
    Flag("per_device_train_batch_size", "runner_config.batch_size", whole(), 8, "samples of a device (8)"),
    Flag("gradient_accumulation_steps", "runner_config.gradient_accumulation_steps", whole(), 1, "(1)"),
    Flag("learning_rate", "lr_schedule.learning_rate", number(above=True), 5e-5, "(5e-5)"),
    Flag("weight_decay", "optimizer.weight_decay", number(), 0.0, "(0)"),
    Flag("adam_beta1", "optimizer.beta1", number(most=1), 0.9, "(0.9)"),
    Flag("adam_beta2", "optimizer.beta2", number(most=1), 0.999, "(0.999)"),
    Flag("adam_epsilon", "optimizer.eps", number(above=True), 1e-8, "(1e-8)"),
    Flag("gradient_checkpointing", "recompute_config.recompute", switch, False, "recompute activations"),
    Flag("seed", "seed", whole(0), 42, "(42)"),
)
IGNORED = {
    "evaluation_strategy": "no: FastChat's trainer evaluates nothing; do_eval of a YAML does",
    "eval_strategy": "no: FastChat's trainer evaluates nothing; do_eval of a YAML does",
    "per_device_eval_batch_size": "nothing is evaluated while training",
    "lazy_preprocess": "rows are always prepared as they are needed",
    "trust_remote_code": "no code of a model's folder is ever run",
    "padding_side": "labels and positions do not depend on it; rows are padded on the right",
    "tf32": "there is no such type on this hardware",
    "report_to": "name trackers under callbacks in a YAML",
    "ddp_find_unused_parameters": "reductions know their parameters",
    "dataloader_num_workers": "rows are prepared beside the step",
    "optim": "AdamW with float32 state",
    "fsdp_transformer_layer_cls_to_wrap": "layers are known",
    "logging_first_step": "--logging_steps says which lines come",
    "cache_dir": "models are kept below ./checkpoint_download",
    "remove_unused_columns": "columns are recognised",
    "local_rank": "ranks come from the launcher",
    "local-rank": "ranks come from the launcher",
}


def parser() -> argparse.ArgumentParser:
    """The document's flags, and a few of transformers' that go with them."""
    p = Parser(description=__doc__)
    p.add_argument("--model_name_or_path", required=True, help="folder or name of a model")
    p.add_argument("--data_path", required=True, help="ShareGPT JSON, or another file of conversations")
    p.add_argument("--output_dir", required=True, help="weights, log, curve")
    for flag in FLAGS:
        p.add_argument(f"--{flag.name}", type=flag.kind, default=flag.default, help=flag.help)
    p.add_argument("--model_max_length", type=whole(8), default=512, help="longest conversation in tokens (512)")
    p.add_argument("--max_steps", type=int, default=-1, help="steps instead of epochs (-1: epochs)")
    p.add_argument("--warmup_steps", type=whole(0), default=0, help="(0)")
    p.add_argument("--warmup_ratio", type=number(most=1), default=0.0, help="share of the run (0)")
    p.add_argument("--max_grad_norm", type=number(), default=1.0, help="clipping norm; 0: none (1)")
    p.add_argument("--lr_scheduler_type", choices=tuple(_SCHEDULES), default="linear", help="(linear)")
    p.add_argument("--fp16", type=switch, default=False, help="half precision")
    p.add_argument("--bf16", type=switch, default=False, help="bfloat16")
    p.add_argument("--fsdp", nargs="?", const="full_shard", default="", help='"full_shard auto_wrap": divided state')
    p.add_argument("--save_strategy", choices=("no", "steps", "epoch"), default="steps", help="(steps)")
    p.add_argument("--save_steps", type=whole(), default=500, help="(500)")
    p.add_argument("--save_total_limit", type=whole(), default=None, help="checkpoints to keep (5)")
    p.add_argument("--logging_steps", type=whole(), default=1, help="(1)")
    for name, reason in IGNORED.items():
        p.add_argument(f"--{name}", nargs="?", const="True", help=f"accepted; no effect ({reason})")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="ours: where it runs")
    p.add_argument("--nproc_per_node", type=whole(1, 1024), help="ours: processes, as torchrun's (NPROC_PER_NODE, 1)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Trains.

    Raises:
        UserError: a flag, the data or the model is not as it must be.
    """
    chosen = parser().parse_args(argv)
    if chosen.fp16 and chosen.bf16:
        raise ConfigError("--bf16", True, "--fp16 is True too: choose one.")
    if not user_path(chosen.data_path).is_file():
        raise DataError(chosen.data_path, "there is no such file", "Name the JSON file with the conversations")
    target = device_of(chosen.device_target)
    ranks = chosen.nproc_per_node or process_count()
    values = of_model(
        chosen.model_name_or_path, bases=("own_data.yaml",), device_target=target, seq_length=chosen.model_max_length
    )
    half = "float16" if chosen.fp16 else "bfloat16" if chosen.bf16 else None
    keys, lines = translated(chosen, ranks)
    show(lines, [(f"--{name}", reason) for name, reason in IGNORED.items() if getattr(chosen, _attribute(name))])
    for section in ("eval_dataset", "eval_dataset_task", "metric", "lr_schedule"):
        values.pop(section, None)
    del values["train_dataset"]["data_loader"]
    values = laid_over(values, {**keys, **precision(values, target, half=half)})
    return carry_out(values, chosen.output_dir, ranks=ranks)


def translated(chosen: argparse.Namespace, ranks: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Keys of our configuration, and a line for each flag that made one."""
    keys: dict[str, Any] = {
        "run_mode": "finetune",
        "do_eval": False,
        "train_dataset.data_loader": {
            "type": "AutoDataLoader",
            "dataset_dir": str(user_path(chosen.data_path)),
            "shuffle": True,
        },
        "train_dataset.max_seq_length": chosen.model_max_length,
        "optimizer.type": "adamw_bias_correction",
        "lr_schedule.type": _SCHEDULES[chosen.lr_scheduler_type],
        "lr_schedule.warmup_lr_init": 0.0 if chosen.warmup_steps or chosen.warmup_ratio else chosen.learning_rate,
        "parallel_config.data_parallel": ranks,
        "parallel.fsdp": chosen.fsdp or None,
        "runner_wrapper.use_clip_grad": chosen.max_grad_norm > 0,
        "callbacks": _callbacks(chosen),
    }
    lines = [
        ("--data_path", f"train_dataset.data_loader.dataset_dir: {chosen.data_path}"),
        ("--model_max_length", f"train_dataset.max_seq_length: {chosen.model_max_length}"),
        ("--lr_scheduler_type", f"lr_schedule.type: {keys['lr_schedule.type']}"),
        ("--save_strategy", f"callbacks: {keys['callbacks'][-1]}"),
    ]
    if chosen.fsdp:
        lines.append(("--fsdp", f"parallel.fsdp: {chosen.fsdp}"))
    for flag in FLAGS:
        value = getattr(chosen, flag.name)
        if flag.name == "num_train_epochs":
            value = max(1, math.ceil(value))
        keys[flag.key] = value
        lines.append((f"--{flag.name}", f"{flag.key}: {value}"))
    if chosen.max_steps > 0:
        keys["runner_config.max_steps"] = keys["runner_config.epochs"] = chosen.max_steps  # it wins over epochs
        lines.append(("--max_steps", f"runner_config.max_steps: {chosen.max_steps}"))
    if chosen.warmup_steps or chosen.warmup_ratio:
        key = "warmup_steps" if chosen.warmup_steps else "warmup_ratio"
        keys[f"lr_schedule.{key}"] = getattr(chosen, key)
        lines.append((f"--{key}", f"lr_schedule.{key}: {getattr(chosen, key)}"))
    return keys, lines


def _callbacks(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    keep = {"keep_checkpoint_max": chosen.save_total_limit or 5}
    saved: dict[str, Any] = {"type": "CheckpointMonitor", "prefix": "fastchat", **keep}
    if chosen.save_strategy == "steps":
        saved["save_checkpoint_steps"] = chosen.save_steps
    elif chosen.save_strategy == "epoch":
        saved["save_checkpoint_epochs"] = 1
    else:
        saved["save_checkpoint_steps"] = _NEVER  # the last step is saved in any case
    return [{"type": "DictMonitor", "logging_steps": chosen.logging_steps}, saved]


def process_count() -> int:
    """NPROC_PER_NODE of the environment, or one.

    Raises:
        ConfigError: it is no number.
    """
    text = os.environ.get("NPROC_PER_NODE", "").strip() or "1"
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise ConfigError("NPROC_PER_NODE", text, "Give the number of processes.")
    return int(text)


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def cli_parser() -> argparse.ArgumentParser:
    """The options of fastchat.serve.cli that have a meaning here."""
    p = Parser(description=__doc__)
    p.add_argument("--model-path", dest="model", required=True, help="folder or name of a model")
    p.add_argument("--device", choices=("npu", "cpu", "cuda", "mps", "xpu"), help="npu: Ascend; cpu: CPU")
    p.add_argument("--temperature", type=float, default=0.7, help="(0.7) near 0: always the most probable token")
    p.add_argument("--repetition_penalty", type=number(above=True), default=1.0, help="(1.0)")
    p.add_argument("--max-new-tokens", type=whole(), default=512, help="longest reply (512)")
    p.add_argument("--lang", choices=("zh", "en"), default="zh", help="ours: language of prompts and notes")
    for name in ("num-gpus", "gpus", "max-gpu-memory", "style", "conv-template", "dtype", "revision"):
        p.add_argument(f"--{name}", help="accepted; no effect")
    for name in ("load-8bit", "cpu-offloading", "debug", "multiline", "mouse"):
        p.add_argument(f"--{name}", action="store_true", help="accepted; no effect")
    return p


def cli(argv: Sequence[str] | None = None) -> None:
    """A chat in the terminal.

    Raises:
        ConfigError: a device that MindSpore does not compute on.
    """
    chosen = cli_parser().parse_args(argv)
    if chosen.device in ("cuda", "mps", "xpu"):
        raise ConfigError("--device", chosen.device, "MindSpore computes on npu or cpu here.")
    words = ["--model", chosen.model, "--lang", chosen.lang, "--temperature", str(chosen.temperature)]
    words += ["--repetition_penalty", str(chosen.repetition_penalty), "--max_new_tokens", str(chosen.max_new_tokens)]
    if chosen.device:
        words += ["--device_target", "Ascend" if chosen.device == "npu" else "CPU"]
    chat.main(words)
