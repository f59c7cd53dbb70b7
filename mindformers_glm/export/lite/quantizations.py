"""What Lite's Converter can make of weights. Light: `--help` lists it."""

from __future__ import annotations

from typing import NamedTuple

_WEIGHTS = "min_quant_weight_size=0\nmin_quant_weight_channel=16\nskip_quant_node={exact}\n"


class Quantization(NamedTuple):
    """What Lite's Converter is told, and what came of it with Lite 2.0.0 on x86."""

    config: str
    weight_fp16: bool
    note: str


QUANTIZATIONS = {
    "none": Quantization("", False, "float32, loads ten times faster than MindIR"),
    "float16": Quantization("", True, "half the disk; computed in float32 on x86"),
    "mixed": Quantization(
        f"[common_quant_param]\nquant_type=WEIGHT_QUANT\nbit_num=0\n{_WEIGHTS}"
        "[mixed_bit_weight_quant_param]\ninit_scale=0.005\n",
        False,
        "weights of about 8 bits, chosen for each layer; a quarter of the disk, computed in float32",
    ),
    "dynamic": Quantization(
        f"[common_quant_param]\nquant_type=DYNAMIC_QUANT\nbit_num=8\n{_WEIGHTS}",
        False,
        "weights of 8 bits on disk and in memory; slow on x86, which has no kernels for it",
    ),
    "weight8": Quantization(
        f"[common_quant_param]\nquant_type=WEIGHT_QUANT\nbit_num=8\n{_WEIGHTS}",
        False,
        "weights of 8 bits; Lite 2.0.0 writes such files and cannot load them: for newer ones",
    ),
}
