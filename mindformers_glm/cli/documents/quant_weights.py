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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.quantization.texts import read_texts

if TYPE_CHECKING:
    from mindformers_glm.quantization.w8a8 import Layer

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
    """Calibrates and writes the eight files with config.json.

    Raises:
        UserError: the model, the rows or the folder is not as it must be.
    """
    chosen = export_parser().parse_args(argv)
    target = user_path(chosen.quant_weight)
    if (target / "quant_weight.npy").exists():
        raise CheckpointError(str(target), "weights are there already", "Name another --quant_weight.")
    texts = [row.text for row in read_texts(chosen.data_path)]
    float_layers = layer_ids(chosen.float_layers_id)
    from tqdm import tqdm  # noqa: PLC0415

    from mindformers_glm import runtime  # noqa: PLC0415
    from mindformers_glm.assembly.model import load_model  # noqa: PLC0415
    from mindformers_glm.models.family import FAMILIES  # noqa: PLC0415
    from mindformers_glm.quantization.calibration import input_ranges  # noqa: PLC0415
    from mindformers_glm.quantization.w8a8 import quantized, write_layers  # noqa: PLC0415

    loaded = load_model(chosen.float_weight, param_init_type="float32", compute_dtype="float32", seq_length=_LONGEST)
    runtime.set_up({"device_target": "CPU", "mode": 1})  # PyNative: what flows is looked at
    network, count = loaded.network, loaded.network.config.num_layers
    strange = [layer for layer in float_layers if layer >= count]
    if strange:
        raise ConfigError("--float_layers_id", strange[0], f"The model has layers 0 to {count - 1}.")
    rows = [loaded.tokenizer.encode(text) for text in texts]
    with tqdm(total=len(rows), unit="row", desc="calibration", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        ranges = input_ranges(network, rows, shown=bar.update)
    linears = {name.strip() for name in chosen.float_linears.split(",") if name.strip()}
    cells = dict(network.cells_and_names())
    layers: dict[str, Layer] = {}
    for path, found in ranges.items():
        number = _layer_number(path)
        if number is None or number in float_layers or path.rpartition(".")[2] in linears:
            continue
        bias = cells[path].bias
        weight = cells[path].weight.asnumpy()
        own = None if bias is None else bias.asnumpy()
        layers[path] = quantized(weight, own, found.low, found.high, sparse=chosen.sparse)
    config = {
        **FAMILIES.of(network.config).written(network.config, "hf"),
        "world_size": 1,
        "float_layers_id": sorted(float_layers),
    }
    write_layers(target, layers, config)
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


def _layer_number(path: str) -> int | None:
    """The number of the layer that a linear belongs to; None for the output layer."""
    parts = path.split(".")
    return next((int(part) for before, part in zip(parts, parts[1:], strict=False) if before == "layers"), None)


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
