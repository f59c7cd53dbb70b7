"""Quantising the linear layers of a network, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_glm.adapters.lora import LoraLinear
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.linear import Linear
from mindformers_glm.models.quantized import float_weight, make_quantized, quantized_layers
from mindformers_glm.models.w8a8 import make_w8a8, w8a8_layers
from mindformers_glm.quantization.interface import Inputs, scheme_of
from mindformers_glm.quantization.outcome import LayerError, QuantizationReport, report_of


def quantize_model(
    model: nn.Cell,
    *,
    bits: int = 8,
    group_size: int | None = None,
    scheme: str | None = None,
    head_bits: int = 8,
    embedding_bits: int = 0,
    inputs: Callable[[str], Inputs | None] = lambda path: None,
) -> QuantizationReport:
    """Replaces the linear layers of a network by integer ones, in place, one after the other.

    `scheme` says how (quantization/schemes), instead of `bits`. The output layer keeps at least `head_bits`; embedding
    and norms stay as they are, unless `embedding_bits` says otherwise. `inputs` tells what was
    seen of a layer's inputs, where the scheme needs it. `model.config` says afterwards what was done.

    Raises:
        ConfigError: other bits or group sizes, layers that do not divide, a network that is quantised already or one
            with LoRA. Nothing has been changed then.
    """
    _check_is_plain(model, bits)
    changes: dict[str, Any] = {"quantization_bit": bits, "quantization_group_size": group_size or 32}
    if scheme is not None:
        changes = scheme_of(scheme, "scheme").network_keys(group_size)
    changes |= {"quantization_head_bits": head_bits, "quantization_embedding_bits": embedding_bits}
    config = type(model.config)(**{**model.config.model_dump(), **changes})
    if not config.quantization_bit:
        return _whole_numbers(model, config, inputs)
    model.config = config
    replaced = make_quantized(model, config)
    while replaced:
        _, (old, new) = replaced.popitem()  # so that the old layer's memory is free before the next is looked at
        new.take(float_weight(old))
    return report(model)


def _whole_numbers(model: nn.Cell, config: NetworkConfig, inputs: Callable[[str], Inputs | None]) -> QuantizationReport:
    """W8A8 of every layer but the output layer."""
    scheme, head = scheme_of(config.quantization_scheme or ""), model.parts.head
    cells = {path: cell for path, cell in model.cells_and_names() if type(cell) is Linear and cell is not head}
    layers, errors, sizes = {}, [], [0, 0]
    for path, cell in cells.items():
        weight = float_weight(cell)
        bias = None if cell.bias is None else cell.bias.astype(ms.float32).asnumpy()
        layers[path] = scheme.quantise(weight, group_size=0, bias=bias, inputs=inputs(path))
        lost = np.linalg.norm(scheme.dequantise(layers[path], cell.in_channels) - weight)
        errors.append(LayerError(path, scheme.bits, float(lost) / max(float(np.linalg.norm(weight)), 1e-30)))
        sizes = [sizes[0] + weight.nbytes, sizes[1] + weight.size + 8 * len(weight)]
    make_w8a8(model, layers)
    model.config = config
    return QuantizationReport(sizes[0], sizes[1], errors)


def _check_is_plain(model: nn.Cell, bits: int) -> None:
    if quantized_layers(model) or w8a8_layers(model):
        raise ConfigError("quantization_bit", bits, "This network is quantised already: load the float weights anew.")
    if any(isinstance(cell, LoraLinear) for _, cell in model.cells_and_names()):
        fix = "This network has LoRA adapters: merge them into the weights first (tools/merge_lora.py)."
        raise ConfigError("quantization_bit", bits, fix)


def report(model: nn.Cell) -> QuantizationReport:
    """What a quantised network's layers take and lost."""
    layers = quantized_layers(model)
    sizes = {name: cell.weight.nbytes + cell.weight_scale.nbytes for name, cell in layers.items()}
    return report_of(layers, sizes)
