"""Writes a model of 8 or 4 bits: `mindformers-glm quantize --checkpoint DIR --bits 4 --output_path OUT`.

The folder loads like any other (AutoModel, chat, load_checkpoint). What it saved and how far each layer is from its
float weights is printed. The float weights are read one at a time and never held together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_glm.cli.options import Parser


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--checkpoint", required=True, help="a folder, weight file or registered name with float weights")
    p.add_argument("--output_path", required=True, help="the folder to write; it must not exist")
    p.add_argument("--bits", type=int, choices=(8, 4), default=4, help="8 or 4 (4); the output layer keeps 8")
    p.add_argument(
        "--group_size",
        type=int,
        choices=(16, 32, 64, 128),
        default=32,
        help="columns that share a scale: 16, 32, 64 or 128 (32)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace an output of an earlier run")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Reads, quantises, writes, reports."""
    args = parser().parse_args(arguments)
    from mindformers_glm import runtime  # noqa: PLC0415 - `--help` works without MindSpore
    from mindformers_glm.auto import AutoConfig, AutoModel  # noqa: PLC0415
    from mindformers_glm.checkpoint.convert import save_directory  # noqa: PLC0415
    from mindformers_glm.checkpoint.load.resolve import resolve  # noqa: PLC0415
    from mindformers_glm.errors import CheckpointError  # noqa: PLC0415
    from mindformers_glm.quantization import report  # noqa: PLC0415

    if Path(args.output_path).exists() and not args.overwrite:
        raise CheckpointError(args.output_path, "it exists", "Name another folder, or add --overwrite.")
    runtime.set_up({})
    if AutoConfig.from_pretrained(args.checkpoint).quantization_bit:
        raise CheckpointError(args.checkpoint, "its weights are quantised already", "Start from the float weights.")
    tokenizer = resolve(args.checkpoint).files.tokenizer
    settings = {"quantization_bit": args.bits, "quantization_group_size": args.group_size}
    model = AutoModel.from_pretrained(args.checkpoint, compute_dtype="float32", param_init_type="float32", **settings)
    found = report(model)
    arrays = {parameter.name: parameter.asnumpy() for parameter in model.get_parameters()}
    made = save_directory(args.output_path, arrays, model.config, tokenizer=tokenizer, overwrite=args.overwrite)
    print("\n".join(found.lines()))
    print(f"written: {made}")
