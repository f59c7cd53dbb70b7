"""W8A8 generated with by MindSpore's operators: one copy of a layer computes all of them, each on its own ranges."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import tiny_networks

from mindformers_glm.generation.network import MindSporeNetwork
from mindformers_glm.models.w8a8 import make_w8a8, w8a8_layers
from mindformers_glm.ops.w8a8 import per_token, quantized
from mindformers_glm.quantization import quantize_model
from mindformers_glm.quantization.interface import Inputs

IDS = np.random.default_rng(0).integers(0, 101, (2, 9)).astype(np.int32)
LARGEST = {"query_key_value": 3.0, "dense": 5.0, "dense_h_to_4h": 4.0, "dense_4h_to_h": 60.0}  # inputs


def network(scheme: str):
    """Ranges of inputs that no two layers have in common; "mixed" has a scale for each token in its second layer."""
    model = tiny_networks.random_network()
    if scheme != "mixed":
        quantize_model(model, scheme=scheme, inputs=seen)
        return model
    layers = {}
    for name, cell in model.cells_and_names():
        if name.rpartition(".")[2] in LARGEST:
            weight, bias = cell.weight.asnumpy(), None if cell.bias is None else cell.bias.asnumpy()
            layers[name] = per_token(weight, bias) if ".1." in name else quantized(weight, bias, *seen(name)[:2])
    make_w8a8(model, layers)
    return model


def seen(path: str) -> Inputs:
    largest = LARGEST[path.rpartition(".")[2]]
    return Inputs(-largest, largest * (1.5 if ".1." in path else 1.0))


def over_cache(model) -> np.ndarray:
    """Logits (R, T, V) of a prompt and then a token at a time."""
    network = MindSporeNetwork(model)
    cache, rows, prompt = network.new_cache(2), len(IDS), 6
    wanted = np.arange(rows * prompt, dtype=np.int32)
    first = network.forward(IDS[:, :prompt], np.full(rows, prompt, np.int32), cache, wanted).reshape(rows, prompt, -1)
    more = [
        network.forward(IDS[:, t : t + 1], np.ones(rows, np.int32), cache, np.arange(rows, dtype=np.int32))
        for t in range(prompt, IDS.shape[1])
    ]
    return np.concatenate([first, np.stack(more, 1)], 1)


@pytest.mark.slow_where(lambda scheme, mode: mode == "graph")
@pytest.mark.parametrize("mode", ["pynative", "graph"])
@pytest.mark.parametrize("scheme", ["w8a8", "w8a8-token", "mixed"])
def test_every_layer_has_its_own_ranges(scheme, mode):
    model = network(scheme)
    assert len(w8a8_layers(model)) == 8
    whole = tiny_networks.logits_of(model, IDS)
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE if mode == "pynative" else ms.GRAPH_MODE)
    try:
        found = over_cache(model)
    finally:
        ms.set_context(mode=before)
    np.testing.assert_allclose(found, whole, atol=2e-4)
