"""Networks that are built to be loaded: their parameters take no memory and draw no random numbers before."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mindspore import nn

from mindformers_glm.adapters.lora import DELTA, begin_magnitudes
from mindformers_glm.mindspore_private import no_init_parameters


def unfilled() -> AbstractContextManager:
    """Within it networks are built without initial values: load weights into them, or `fill` them."""
    return no_init_parameters()


def fill(model: nn.Cell) -> None:
    """Gives the parameters that have no value yet their initial ones."""
    begun = set()
    for parameter in model.get_parameters():
        if parameter.has_init:
            parameter.init_data()
            begun.add(parameter.name)
    magnitudes = [name.removesuffix(DELTA + "_m") for name in begun if name.endswith(DELTA + "_m")]
    begin_magnitudes(model, [name + "weight" for name in magnitudes])
