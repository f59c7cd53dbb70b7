"""Integers of a network of arrays are packed once, and are in memory once."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_networks import tiny_config

from mindformers_glm.assembly.random_held import random_network
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.models.described import linear_layers
from mindformers_glm.ops.kernels.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not built here")
TOKENS = np.array([[5, 17, 3, 80]], np.int32)


def logits(network: KernelNetwork) -> np.ndarray:
    places = np.arange(4, dtype=np.int32)
    return network.forward(TOKENS, np.array([4], np.int32), network.new_cache(1), places)


def integers(weights):
    return [layer for layer in linear_layers(weights) if layer.scale is not None]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("is_own", [True, False])
def test_what_nobody_else_has_is_replaced_by_what_is_packed(bits, is_own):
    held = random_network(tiny_config(quantization_bit=bits, ffn_hidden_size=64))
    for tensor in held.slots.values():
        tensor.is_own = is_own
    weights = held.weights()
    before = [layer.weight.asnumpy().copy() for layer in integers(weights)]
    network = KernelNetwork(weights)
    found = logits(network)
    assert len(before) == 9
    for layer, rows in zip(integers(weights), before, strict=True):
        assert np.array_equal(layer.weight.asnumpy(), rows) != is_own
        assert layer.weight.asnumpy().shape == rows.shape and layer.weight.asnumpy().dtype == rows.dtype
    np.testing.assert_array_equal(logits(KernelNetwork(held.weights())), found)  # packed already, or again
    np.testing.assert_array_equal(logits(network), found)
