"""The ATB guide's commands for weights of 8 bits.

    python tools/export_quant_weight.py --float_weight chatglm2-6b --data_path rows.jsonl --quant_weight OUT [--sparse]
    ENABLE_QUANT=1 QUANT_WEIGHT_PATH=OUT python tools/process_weights.py --model_path chatglm2-6b --tp_size 2
    python tools/generate_compress_weight.py --weight_path OUT --save_path COMPRESSED

The eight .npy files have the meaning and types of ModelSlim's; ranges are the least and largest input over all rows.
On Ascend the files are unverified. See docs/migration.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mindformers_glm.cli.options import Parser, progress_bar, whole
from mindformers_glm.errors import CheckpointError, ConfigError, DataError
from mindformers_glm.files import user_path
from mindformers_glm.quantization.texts import read_texts

_LONGEST = 8192


def export_parser() -> argparse.ArgumentParser:
    """The options of export_quant_weight.py."""
    p = Parser(description=__doc__)
    p.add_argument("--float_weight", required=True, help="the model to quantise: folder or name")
    p.add_argument("--data_path", required=True, help='rows to calibrate on: {"inputs_pretokenized": ...} a line')
    p.add_argument("--quant_weight", required=True, help="folder to write")
    p.add_argument("--sparse", action="store_true", help="all but 1.1 %% of the numbers of a layer within 4 bits")
    p.add_argument("--float_layers_id", default="0", help="layers that stay float, with commas between (0); none: -")
    p.add_argument("--float_linears", default="", help="ours: linears of all layers that stay float: dense_4h_to_h")
    return p


def export(argv: Sequence[str] | None = None) -> None:
    """Calibrates, a layer of the model in memory at a time, and writes the eight files with config.json.

    What is done lies in QUANT_WEIGHT.work; a run that was killed goes on there.

    Raises:
        UserError: the model, the rows or the folder is not as it must be.
    """
    chosen = export_parser().parse_args(argv)
    target = user_path(chosen.quant_weight)
    if (target / "quant_weight.npy").exists():
        raise CheckpointError(str(target), "weights are there already", "Name another --quant_weight.")
    texts = [row.text for row in read_texts(chosen.data_path)]
    float_layers = layer_ids(chosen.float_layers_id)
    from mindformers_glm import runtime  # noqa: PLC0415
    from mindformers_glm.assembly.network import config_of  # noqa: PLC0415
    from mindformers_glm.assembly.parts import parts_of  # noqa: PLC0415
    from mindformers_glm.assembly.tokenizer import load_tokenizer  # noqa: PLC0415
    from mindformers_glm.models.family import FAMILIES  # noqa: PLC0415
    from mindformers_glm.quantization.calibrate import calibrate, identity, layers_of  # noqa: PLC0415
    from mindformers_glm.quantization.job import choice_of  # noqa: PLC0415
    from mindformers_glm.quantization.w8a8 import in_order, write_layers  # noqa: PLC0415
    from mindformers_glm.quantization.walk import Walk  # noqa: PLC0415
    from mindformers_glm.quantization.work import Work  # noqa: PLC0415

    base = parts_of(chosen.float_weight).base
    config, tokenizer = config_of(base), load_tokenizer(base.name)
    strange = [layer for layer in float_layers if layer >= config.num_layers]
    if strange:
        raise ConfigError("--float_layers_id", strange[0], f"The model has layers 0 to {config.num_layers - 1}.")
    runtime.set_up({"device_target": "CPU", "mode": 1})  # PyNative: what flows is looked at
    linears = tuple(name.strip() for name in chosen.float_linears.split(",") if name.strip())
    scheme = "w8a8-sparse" if chosen.sparse else "w8a8"
    choice = choice_of(scheme, float_layers=frozenset(float_layers), float_linears=linears)
    rows = [list(map(int, tokenizer.encode(text))) for text in texts]
    for number, row in enumerate(rows, 1):
        if len(row) > _LONGEST:
            fault = f"row {number} has {len(row)} tokens, more than {_LONGEST}"
            raise DataError(chosen.data_path, fault, "Cut it, or leave it out")
    source = base.read()
    walk, work = Walk(source, config, rows), Work(target, identity(source, rows, choice))
    shown = progress_bar((config.num_layers - work.done) * len(rows), "calibration")
    calibrate(walk, work, choice, shown=shown)
    layers = in_order(layers_of(work.tensors()), config)
    told = {
        **FAMILIES.of(config).written(config, "hf"),
        "world_size": 1,
        "float_layers_id": sorted(float_layers),
    }
    write_layers(target, layers, told)
    work.remove()
    print(f"written {target}: {len(layers)} linear layers over {len(rows)} rows")


def process_quantized(model: str, folder: str, size: int) -> Path:
    """QUANT_WEIGHT_PATH/tpN of process_weights.py.

    Raises:
        UserError: the model or the folder is not as it must be.
    """
    from mindformers_glm.assembly.parts import parts_of  # noqa: PLC0415 - reads weights
    from mindformers_glm.quantization.w8a8 import write_divided  # noqa: PLC0415

    config = parts_of(model).base.files.config
    if config is None:
        raise ConfigError("--model_path", model, "No configuration lies beside its weights.")
    return write_divided(
        folder,
        heads=config.num_attention_heads,
        groups=config.multi_query_group_num,
        kv_channels=config.kv_channels,
        size=size,
    )


def compress_parser() -> argparse.ArgumentParser:
    """The options of generate_compress_weight.py."""
    p = Parser(description=__doc__)
    p.add_argument("--weight_path", required=True, help="folder of sparse weights, or its tpN")
    p.add_argument("--save_path", required=True, help="folder to write")
    p.add_argument("--rank", type=whole(0), default=0, help="rank of a tpN folder (0)")
    return p


def compress(argv: Sequence[str] | None = None) -> None:
    """Writes SAVE/compress_R.npz: our own form, for the vendor's is not public.

    Raises:
        UserError: there are no such weights, or the output is there already.
    """
    from mindformers_glm.quantization.sparse import write_compressed  # noqa: PLC0415 - reads weights

    chosen = compress_parser().parse_args(argv)
    path, before, after = write_compressed(chosen.weight_path, chosen.save_path, rank=chosen.rank)
    share = after / max(before, 1)
    print(
        f"written {path}: {before:,} bytes of weights in {after:,} ({share:.0%}); this project's form, not the vendor's"
    )


def layer_ids(text: str) -> set[int]:
    """Numbers of layers with commas between; - or nothing: none.

    Raises:
        ConfigError: something else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip() not in ("", "-")]
    if not all(part.isdigit() and len(part) < 6 for part in parts):
        raise ConfigError("--float_layers_id", text, "Give numbers of layers with commas between, or - for none.")
    return set(map(int, parts))


def process_parser() -> argparse.ArgumentParser:
    """The options of process_weights.py."""
    p = Parser(description=__doc__)
    p.add_argument("--model_path", required=True, help="the model: folder or name")
    p.add_argument("--tp_size", type=whole(1, 64), default=1, help="ranks (1)")
    return p


def process(argv: Sequence[str] | None = None) -> None:
    """Writes what each rank holds: MODEL/tensor_parallel/part_model/R, or QUANT_WEIGHT_PATH/tpN with ENABLE_QUANT=1.

    Nothing here needs these folders: --tp_size of every command divides a whole model as it is loaded.

    Raises:
        UserError: the model does not divide, or the output is there already.
    """
    chosen = process_parser().parse_args(argv)
    if os.environ.get("ENABLE_QUANT") == "1":
        folder = os.environ.get("QUANT_WEIGHT_PATH", "")
        if not folder:
            raise ConfigError("QUANT_WEIGHT_PATH", None, "Name the folder that tools/export_quant_weight.py wrote.")
        print(f"written {process_quantized(chosen.model_path, folder, chosen.tp_size)}")
        return
    if chosen.tp_size == 1:
        print("one rank: nothing to write")
        return
    from mindformers_glm.assembly.parts import parts_of  # noqa: PLC0415 - reads weights
    from mindformers_glm.checkpoint.convert.parts import write_parts  # noqa: PLC0415

    print(f"written {write_parts(parts_of(chosen.model_path).base, chosen.tp_size)}")
