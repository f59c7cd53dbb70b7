"""Writes a model of 8 or 4 bits: `mindformers-glm quantize --checkpoint DIR --scheme int4 --output_path OUT`.

    mindformers-glm quantize --checkpoint DIR --bits 4 --data_path rows.jsonl --gate texts.jsonl --output_path OUT
    mindformers-glm quantize --checkpoint DIR --scheme w8a8 --data_path rows.jsonl --propose --gate texts.jsonl ...

The folder loads like any other (AutoModel, chat, load_checkpoint); w8a8 is written in ModelSlim's AscendV1 form. With
rows (--data_path) layers are quantised for what flows through them, one at a time: a run that was killed goes on where
it was. Without rows weights are rounded to nearest. --gate compares with the float model on texts (of rows with
targets_pretokenized these alone count) and writes nothing beyond --bound. See docs/quantisation.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm.cli.options import Parser, number, progress_bar, whole

if TYPE_CHECKING:
    from mindformers_glm.quantization.outcome import QuantizationReport


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--checkpoint", required=True, help="a folder, weight file or registered name with float weights")
    p.add_argument("--output_path", required=True, help="the folder to write; it must not exist")
    p.add_argument("--scheme", help="how weights are held: int4, int8, int8-row, gptq, w8a8, ... (by --bits)")
    p.add_argument("--bits", type=int, choices=(8, 4), default=4, help="8 or 4 (4), where no scheme is named")
    p.add_argument(
        "--group_size",
        type=int,
        choices=(16, 32, 64, 128),
        help="columns that share a scale: 16, 32, 64 or 128 (32; gptq 128)",
    )
    p.add_argument("--head_bits", type=int, choices=(8, 4, 0), default=8, help="of the output layer; 0: floats (8)")
    p.add_argument("--embedding_bits", type=int, choices=(8, 4, 0), default=0, help="of the embedding; 0: floats (0)")
    p.add_argument("--data_path", help="rows to calibrate on: .jsonl with inputs_pretokenized or text, or .txt lines")
    p.add_argument("--max_length", type=whole(2), default=2048, help="tokens of a row (2048)")
    p.add_argument("--float_layers_id", default="-", help="w8a8: layers that stay float, with commas between (none)")
    p.add_argument("--float_linears", default="", help="w8a8: linears of all layers that stay float: dense_4h_to_h")
    p.add_argument("--clip", type=number(50, 100), default=100.0, help="w8a8: percent of inputs within range (100)")
    p.add_argument("--smooth", type=number(0, 1), default=0.0, help="spread of inputs moved into weights, 0 to 1 (0)")
    p.add_argument("--gate", help="texts on which the result is held beside the float model")
    p.add_argument("--gate_tokens", type=whole(2), default=4096, help="tokens of the gate (4096)")
    p.add_argument("--bound", type=number(0, 100), default=0.01, help="largest loss: KL in nats per token (0.01)")
    p.add_argument("--propose", action="store_true", help="tries groups, or layers that stay float, within --bound")
    p.add_argument("--anyway", action="store_true", help="write beyond the bound")
    p.add_argument("--ceval", help="folder of C-Eval: five questions of each subject are answered too")
    p.add_argument("--report", help="folder of the gate's report (OUT_gate)")
    p.add_argument(
        "--to",
        choices=("ours", "ours-panels"),
        default="ours",
        help="ours-panels: in the order of the CPU's kernels, which start from it at once (ours)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace an output of an earlier run")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Reads, quantises, writes, reports."""
    args = parser().parse_args(arguments)
    from mindformers_glm.cli.documents.quant_weights import layer_ids  # noqa: PLC0415
    from mindformers_glm.errors import CheckpointError, ConfigError  # noqa: PLC0415
    from mindformers_glm.quantization.interface import DEFAULTS, scheme_of  # noqa: PLC0415 - `--help` without MindSpore

    scheme = args.scheme or DEFAULTS[args.bits]
    needs = scheme_of(scheme, "--scheme").needs
    if args.data_path is None and needs:
        fix = f"Name rows to calibrate on: {scheme} sees what flows through the layers."
        raise ConfigError("--data_path", None, fix)
    _check(args)
    if args.data_path is None and args.gate is None:
        _to_nearest(args, scheme)
        return
    if Path(args.output_path).exists() and not args.overwrite:
        raise CheckpointError(args.output_path, "it exists", "Name another folder, or add --overwrite.")
    from mindformers_glm.quantization.job import Asked, Job, choice_of  # noqa: PLC0415

    linears = tuple(name.strip() for name in args.float_linears.split(",") if name.strip())
    chosen = choice_of(
        scheme,
        group_size=args.group_size,
        float_layers=frozenset(layer_ids(args.float_layers_id)),
        float_linears=linears,
        clip=args.clip,
        smooth=args.smooth,
    )
    job = Job(
        Asked(
            checkpoint=args.checkpoint,
            output=str(Path(args.output_path)),  # names beside it are made of it: no slash at its end
            choice=chosen,
            rows=args.data_path,
            head_bits=args.head_bits,
            embedding_bits=args.embedding_bits,
            max_length=args.max_length,
            overwrite=args.overwrite,
            form=args.to,
            gate=args.gate,
            gate_tokens=args.gate_tokens,
            bound=args.bound,
            anyway=args.anyway,
            propose=args.propose,
            ceval=args.ceval,
            report=args.report,
            shown=progress_bar,
        )
    )
    made = job.run()
    for lost in sorted(job.lost, key=lambda row: -row.outputs):
        print(f"{lost.weight:>8.3%} of the weight {lost.outputs:>8.3%} of its outputs  {lost.name}")
    print(f"written: {made}")


def _check(args: argparse.Namespace) -> None:
    """Passes when every option has something to act on.

    Raises:
        ConfigError: one would be ignored.
    """
    from mindformers_glm.errors import ConfigError  # noqa: PLC0415

    for name in ("propose", "anyway", "ceval", "report"):
        if args.gate is None and getattr(args, name):
            raise ConfigError(f"--{name}", getattr(args, name), "It belongs to --gate: name texts to compare on.")
    usual = {"smooth": 0.0, "clip": 100.0, "float_layers_id": "-", "float_linears": ""}
    for name, value in usual.items():
        if args.data_path is None and getattr(args, name) != value:
            raise ConfigError(f"--{name}", getattr(args, name), "It needs rows: name them with --data_path.")
    if args.smooth and args.clip < 100:
        raise ConfigError("--clip", args.clip, "--smooth sets the ranges itself: use one of the two.")


def _to_nearest(args: argparse.Namespace, scheme: str) -> None:
    """Without rows: each weight is read, rounded and written by itself."""
    from mindformers_glm.assembly.configuration import config_of  # noqa: PLC0415 - as above
    from mindformers_glm.assembly.held_files import NeedsMindSpore, load_held  # noqa: PLC0415
    from mindformers_glm.assembly.parts import parts_of  # noqa: PLC0415
    from mindformers_glm.checkpoint.convert import save_directory  # noqa: PLC0415
    from mindformers_glm.errors import CheckpointError, ConfigError  # noqa: PLC0415
    from mindformers_glm.log import log_once  # noqa: PLC0415
    from mindformers_glm.ops.quantized import SCALE  # noqa: PLC0415
    from mindformers_glm.quantization.interface import scheme_of  # noqa: PLC0415
    from mindformers_glm.quantization.outcome import report_of  # noqa: PLC0415

    if Path(args.output_path).exists() and not args.overwrite:
        raise CheckpointError(args.output_path, "it exists", "Name another folder, or add --overwrite.")
    keys = scheme_of(scheme).network_keys(scheme_of(scheme).group(args.group_size, "--group_size"))
    if not keys["quantization_bit"]:
        raise ConfigError("--scheme", scheme, "It needs no folder: load the float model with quantization_scheme.")
    there = parts_of(args.checkpoint).base
    if config_of(there).quantization_bit:
        raise CheckpointError(args.checkpoint, "its weights are quantised already", "Start from the float weights.")
    keys |= {"quantization_head_bits": args.head_bits, "quantization_embedding_bits": args.embedding_bits}
    keys |= {"compute_dtype": "float32", "param_init_type": "float32"}
    try:
        held = load_held(args.checkpoint, **keys)
    except NeedsMindSpore as error:
        log_once(str(error))
        found, arrays, config = _by_mindspore(args.checkpoint, keys)
    else:
        arrays, config = {tensor.name: tensor.asnumpy() for tensor in held.slots.values()}, held.config
        if config.embedding_type == "bfloat16":  # in which no operator of MindSpore looks tokens up on a CPU
            arrays.update({name: one.floats() for name, one in held.slots.items() if one.dtype == "bfloat16"})
            config = config.model_copy(update={"embedding_type": "float32"})
        found = report_of(
            held.rounded, {name: arrays[name].nbytes + arrays[name + SCALE].nbytes for name in held.rounded}
        )
    tokenizer = there.files.tokenizer
    made = save_directory(args.output_path, arrays, config, form=args.to, tokenizer=tokenizer, overwrite=args.overwrite)
    print("\n".join(found.lines()))
    print(f"written: {made}")


def _by_mindspore(checkpoint: str, keys: dict[str, Any]) -> tuple[QuantizationReport, dict[str, Any], Any]:
    from mindformers_glm import runtime  # noqa: PLC0415
    from mindformers_glm.auto import AutoModel  # noqa: PLC0415
    from mindformers_glm.quantization import report  # noqa: PLC0415

    runtime.set_up({})
    model = AutoModel.from_pretrained(checkpoint, **keys)
    return report(model), {parameter.name: parameter.asnumpy() for parameter in model.get_parameters()}, model.config
