"""Merges a LoRA into its base: `mindformers-glm merge-lora --base DIR --adapter DIR --output_path OUT [--to FORM]`.

The base may hold the adapter itself (a MindFormers checkpoint of a LoRA run): then leave out --adapter. Afterwards the
written weights are compared with base plus adapter: every adapted layer on random input, and the logits of the whole
network where it fits in memory (--verify logits, layers or none).
"""

from __future__ import annotations

import argparse

from mindformers_glm.checkpoint.convert.forms import FORMS
from mindformers_glm.cli.options import Parser, number


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--base", required=True, help="base weights: file, folder or registered name")
    p.add_argument("--adapter", help="PEFT folder or MindFormers .ckpt; the base itself when left out")
    p.add_argument("--output_path", required=True)
    p.add_argument("--to", choices=[form for form in FORMS if form != "peft"], help="form of the output (ours)")
    p.add_argument("--config", help="YAML or config.json of the network, where none lies beside the base")
    p.add_argument("--lora_alpha", type=number(above=True), help="alpha, where no file tells it")
    p.add_argument("--lora_scaling", type=number(above=True), help="alpha / rank, as transform_ckpt_lora.py takes it")
    p.add_argument("--dtype", help="fp32, fp16 or bf16; without it numbers keep their type")
    p.add_argument("--verify", choices=("auto", "logits", "layers", "none"), default="auto")
    p.add_argument("--dry-run", "--dry_run", action="store_true", help="print the plan and write nothing")
    p.add_argument("--overwrite", action="store_true", help="replace an output of an earlier merge")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Merges, writes, compares."""
    args = parser().parse_args(arguments)
    from mindformers_glm.cli.merging import merge  # noqa: PLC0415 - reads weights

    merge(args)
