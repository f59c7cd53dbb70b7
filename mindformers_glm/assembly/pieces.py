"""Networks with weights at hand: one layer of a model, and a whole one from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mindspore import nn

from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.filling import floats
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.build import build_model
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.initial import unfilled
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.w8a8 import make_w8a8
from mindformers_glm.ops.w8a8 import Layer


def stage_with_weights(source: WeightSource, config: NetworkConfig, part: Any) -> nn.Cell:
    """The stage of a pipeline that `part` says, with its weights as float32, for inference."""
    network = FAMILIES.of(config).network_class()
    with unfilled():
        stage = network(config, part=part).set_train(False)
    names = {parameter.name for parameter in stage.get_parameters()}
    load_into(stage, {name: floats(source, name) for name in source.names if name in names})
    return stage


def network_with_weights(
    config: NetworkConfig, weights: Mapping[str, np.ndarray], layers: Mapping[str, Layer]
) -> nn.Cell:
    """The network with weights under our names and W8A8 layers, for inference."""
    with unfilled():
        model = build_model(config).set_train(False)
    if layers:
        make_w8a8(model, layers)
    load_into(model, weights)
    return model
