"""Networks that are built to be loaded: their parameters take no memory and draw no random numbers before."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mindspore import nn

from mindformers_glm.mindspore_private import no_init_parameters


def unfilled() -> AbstractContextManager:
    """Within it networks are built without initial values: load weights into them, or `fill` them."""
    return no_init_parameters()


def fill(model: nn.Cell) -> None:
    """Gives the parameters that have no value yet their initial ones."""
    for parameter in model.get_parameters():
        if parameter.has_init:
            parameter.init_data()
