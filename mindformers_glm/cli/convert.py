"""Converts a checkpoint: `mindformers-glm convert --input_path DIR_OR_FILE --output_path OUT [--to FORM]`.

Reads official folders (safetensors or .bin), MindFormers .ckpt of every era, PEFT adapters, our folders, and
registered names, Megatron folders. Forms to write: ours, hf, transformers, mcore (Mcore of MindFormers 2),
mindformers, mindformers-1.2, mindformers-1.5, peft, official-int4, official-int8, gptq (4 bits in groups, rounded to
nearest), gguf (one file for llama.cpp), megatron (mcore folders of ModelLink, with --tp and --pp).
Without --to the output's name decides: .ckpt is `mindformers`, everything else `ours`; --reversed is `hf`.
An interrupted conversion to a folder goes on with the first file that is not finished. A single .ckpt is written anew;
until it is whole, an older one of that name stays.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mindformers_glm.checkpoint.convert.forms import FORMS
from mindformers_glm.checkpoint.load.storage import Storage
from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_glm.checkpoint.convert.plan import ConversionPlan

_MODELS = ("glm-n", "glm2", "glm3", "glm2_6b", "glm3_6b")


def parser() -> argparse.ArgumentParser:
    """Our arguments and those of MindFormers' convert_weight.py."""
    p = Parser(description=__doc__)
    p.add_argument("--input_path", required=True, help="file, folder, registered name or hub repository")
    p.add_argument("--output_path", required=True)
    p.add_argument("--to", choices=[*FORMS, "gguf", "megatron"], help="form of the output")
    p.add_argument("--dtype", help="fp32, fp16, bf16, or nothing: numbers keep their type; for gguf also q8_0, q4_0")
    p.add_argument("--config", help="YAML or config.json of the network, where none lies beside the weights")
    p.add_argument(
        "--tokenizer", help="tokenizer to put beside the weights: folder, tokenizer.model or name of a model"
    )
    p.add_argument("--shard_size", default="2GB", help="largest file of a folder (2GB)")
    p.add_argument("--lora_alpha", type=number(above=True), help="alpha of a LoRA whose file does not tell it")
    p.add_argument("--rank", type=whole(0), default=0, help="which rank_N folder to read")
    p.add_argument("--dry-run", "--dry_run", action="store_true", help="print the plan and write nothing")
    p.add_argument("--overwrite", action="store_true", help="replace an output of an earlier conversion")
    p.add_argument(
        "--download", nargs="?", const="hub", help="fetch a model that is not here, of any owner: hub or modelscope"
    )
    p.add_argument("--model", default="glm-n", help="accepted for MindFormers' sake: glm-n")
    p.add_argument("--reversed", action="store_true", help="the same as --to hf")
    p.add_argument("--concat", help="True: the same as --to mindformers-1.2, joining separate query, key, value")
    p.add_argument("--tp", type=whole(1), default=1, help="tensor ranks of a Megatron folder to write")
    p.add_argument("--pp", type=whole(1), default=1, help="pipeline ranks of a Megatron folder to write")
    for key in Storage._fields:
        p.add_argument(f"--{key}", help=f"True or False: how the MindFormers side stores weights ({key})")
    return p


def plan_of(args: argparse.Namespace) -> ConversionPlan:
    """The plan that the arguments ask for."""
    from mindformers_glm.checkpoint.convert.job import plan_job  # noqa: PLC0415 - reads weights

    if args.model not in _MODELS:
        raise ConfigError("model", args.model, f"Use one of {', '.join(_MODELS)}.")
    form = args.to or ("hf" if args.reversed else "mindformers-1.2" if _flag(args.concat) else None)
    form = form or ("mindformers" if args.output_path.endswith(".ckpt") else "ours")
    stored = _storage(args)
    writes = form == "mindformers-1.5"
    return plan_job(
        args.input_path,
        args.output_path,
        form,
        config=args.config,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        shard_size=args.shard_size,
        rank=args.rank,
        download=args.download,
        lora_alpha=args.lora_alpha,
        read_storage=None if writes else stored,
        write_storage=stored if writes else None,
    )


def main(arguments: list[str] | None = None) -> None:
    """Prints the plan and carries it out."""
    args = parser().parse_args(arguments)
    if args.to == "megatron":
        _write_megatron(args)
        return
    if args.to == "gguf" or (args.to is None and not args.reversed and args.output_path.endswith(".gguf")):
        _write_gguf(args)
        return
    from mindformers_glm.cli.conversions import carried_out  # noqa: PLC0415 - writes weights

    plan = plan_of(args)
    source: Any = plan.source
    print(f"input  {source.path} ({source.format}, names of {source.naming or 'any naming'}), {source.kind}")
    try:
        carried_out(plan, dry_run=args.dry_run, overwrite=args.overwrite)
    except KeyboardInterrupt:
        print("convert: the same command goes on from here, or writes a single .ckpt anew", file=sys.stderr)
        raise


def _write_gguf(args: argparse.Namespace) -> None:
    """Writes a GGUF file, or prints what it would write."""
    from mindformers_glm.checkpoint.convert.gguf import plan_gguf, write_gguf  # noqa: PLC0415 - reads weights
    from mindformers_glm.checkpoint.convert.job import open_checkpoint, tokenizer_folder  # noqa: PLC0415
    from mindformers_glm.cli.conversions import bar  # noqa: PLC0415

    alpha = args.lora_alpha
    opened = open_checkpoint(
        args.input_path, config=args.config, rank=args.rank, download=args.download, lora_alpha=alpha
    )
    if opened.config is None or not opened.exact:
        raise ConfigError("config", None, "The shapes do not tell the channels of a head: give --config.")
    tokenizer = tokenizer_folder(args.tokenizer) if args.tokenizer else opened.tokenizer
    plan = plan_gguf(opened.source, opened.config, args.output_path, dtype=args.dtype, tokenizer=tokenizer)
    inside = "with its vocabulary" if plan.has_vocabulary else "without a vocabulary (no_vocab): programs give it ids"
    print(f"output {plan.out} (gguf), {len(plan.tensors)} tensors, {plan.size:,} bytes, {inside}")
    if args.dry_run:
        print("dry run: nothing was written")
        return
    with bar(plan.size) as progress:
        print(f"written {write_gguf(plan, overwrite=args.overwrite, progress=progress)}")


def _write_megatron(args: argparse.Namespace) -> None:
    """Writes a Megatron folder, or prints what it would write."""
    from mindformers_glm.checkpoint.convert import megatron  # noqa: PLC0415 - reads weights
    from mindformers_glm.checkpoint.convert.job import open_checkpoint  # noqa: PLC0415
    from mindformers_glm.checkpoint.formats.dtypes import float_name  # noqa: PLC0415

    opened = open_checkpoint(args.input_path, config=args.config, rank=args.rank, download=args.download)
    if opened.config is None or opened.source.kind != "weights":
        raise ConfigError(
            "input_path", args.input_path, "Give whole weights with their --config; merge adapters first."
        )
    parts = {"tp": args.tp, "pp": args.pp, "overwrite": args.overwrite}
    megatron.check_writing(opened.source, opened.config, args.output_path, **parts)
    float_name(args.dtype or "float32")
    print(f"output {args.output_path} (megatron, {args.tp} x {args.pp} ranks)")
    for file, _, names in megatron.rank_parts(opened.config, args.tp, args.pp):
        print(f"  {file}: {len(names)} tensors")
    if args.dry_run:
        print("dry run: nothing was written")
        return
    megatron.write_megatron(opened.source, opened.config, args.output_path, dtype=args.dtype, **parts)
    print(f"written {args.output_path}")


def _storage(args: argparse.Namespace) -> Storage | None:
    """The storage switches of the command line over those of --config; None when neither says anything."""
    from mindformers_glm.checkpoint.load.model_files import read_config  # noqa: PLC0415 - brings pydantic

    given = {key: _flag(getattr(args, key)) for key in Storage._fields if getattr(args, key) is not None}
    base = read_config(args.config)[1] if args.config else Storage()
    return base._replace(**given) if given or base != Storage() else None


def _flag(text: str | None) -> bool:
    if text is not None and text.lower() not in ("true", "false", "1", "0"):
        raise ConfigError("option", text, "Use True or False.")
    return text is not None and text.lower() in ("true", "1")
