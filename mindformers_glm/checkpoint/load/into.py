"""Weights into a MindSpore network."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_glm.adapters.lora import begin_magnitudes
from mindformers_glm.checkpoint.formats.dtypes import typed
from mindformers_glm.checkpoint.load.filling import LoadReport, fill_from
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.initial import fill
from mindformers_glm.models.quantized import quantized_layers
from mindformers_glm.models.w8a8 import w8a8_layers


def load_into(
    model: nn.Cell,
    source: WeightSource | Mapping[str, np.ndarray],
    *,
    partial: bool = False,
    new_adapter: bool = False,
) -> LoadReport:
    """Sets the network's parameters from `source` (or from arrays under our names), cast to their own types.

    What `partial` and `new_adapter` mean, and what is refused: see `filling.fill_from`. Parameters that have no value
    after that get their initial one.

    Raises:
        CheckpointError: as `fill_from`.
    """
    network = _Network(model, is_read=isinstance(source, WeightSource))
    report = fill_from(network, source, partial=partial, new_adapter=new_adapter)
    fill(model)
    begin_magnitudes(model, report.loaded)
    return report


class _Network:
    """A MindSpore network as what weights are put into: those that were read are taken as they are, others copied."""

    is_mapped = False  # a file's pages cannot be written, and parameters are
    may_be_panels = ()

    def __init__(self, model: nn.Cell, *, is_read: bool) -> None:
        self._is_read = is_read
        layers = w8a8_layers(model)
        settled = {parameter.name for cell in layers.values() for parameter in cell.get_parameters()}
        self.tied: Mapping[str, str] = getattr(model, "tied", {})
        self.slots = {one.name: one for one in model.get_parameters() if one.name not in settled}
        self.rounded, self.whole = quantized_layers(model), list(layers)

    def put(self, name: str, bits: np.ndarray, *, is_in_panels: bool = False) -> None:
        """Sets a parameter."""
        assert not is_in_panels, name
        parameter = self.slots[name]
        kind = str(parameter.dtype).lower()
        values = typed(bits, kind)
        if self._is_read and values is bits and bits.flags.writeable:
            parameter.set_data(ms.Tensor.from_numpy(bits))  # no second copy of a large matrix
        else:
            parameter.set_data(ms.Tensor(values, parameter.dtype))
