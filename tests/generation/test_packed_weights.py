"""Integers of a network of arrays are packed once, and are in memory once."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest
from tiny_networks import tiny_config

from mindformers_glm.assembly.held import HeldTensor
from mindformers_glm.assembly.random_held import random_network
from mindformers_glm.generation import kernel_network
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.generation.packed_weights import Packed
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


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("is_own", [True, False])
def test_a_large_network_computes_from_rows_while_it_is_packed(bits, is_own, monkeypatch):
    held = random_network(tiny_config(quantization_bit=bits, ffn_hidden_size=64))
    wanted = logits(KernelNetwork(held.weights()))
    held = random_network(tiny_config(quantization_bit=bits, ffn_hidden_size=64))
    for tensor in held.slots.values():
        tensor.is_own = is_own
    begins, real = threading.Event(), Packed.pack_beside
    monkeypatch.setattr(kernel_network, "AT_ONCE", 0)
    monkeypatch.setattr(Packed, "pack_beside", lambda self, functions: begins.wait(60) and real(self, functions))
    weights = held.weights()
    rows = [layer.weight.asnumpy() for layer in integers(weights)]
    network, other = KernelNetwork(weights), KernelNetwork(held.weights())
    np.testing.assert_array_equal(logits(network), wanted)  # nothing is packed yet
    np.testing.assert_array_equal(logits(other), wanted)
    assert all(layer.weight.asnumpy() is one for layer, one in zip(integers(weights), rows, strict=True))
    begins.set()
    network.settle()
    np.testing.assert_array_equal(logits(network), wanted)
    np.testing.assert_array_equal(logits(other), wanted)  # from what it had, whoever has replaced that meanwhile
    other.settle()
    np.testing.assert_array_equal(logits(other), wanted)
    kept = [layer.weight.asnumpy() is one for layer, one in zip(integers(weights), rows, strict=True)]
    assert not any(kept) if is_own else all(kept)


def test_a_network_that_is_gone_is_packed_no_further(monkeypatch):
    monkeypatch.setattr(kernel_network, "AT_ONCE", 0)
    begins, packed = threading.Event(), []
    monkeypatch.setattr(Packed, "pack_beside", lambda self, functions: packed.append(begins.wait(60)))
    network = KernelNetwork(random_network(tiny_config(quantization_bit=8, ffn_hidden_size=64)).weights())
    logits(network)
    thread = next(thread for thread in threading.enumerate() if thread.name == "packing")
    del network
    gc.collect()
    begins.set()
    thread.join(60)
    assert len(packed) <= 1  # of nine


def test_a_process_that_is_forked_while_a_network_is_packed_packs_the_rest(monkeypatch):
    held = random_network(tiny_config(quantization_bit=8, ffn_hidden_size=64))
    wanted = logits(KernelNetwork(held.weights()))
    begun, goes_on, real, parent = threading.Event(), threading.Event(), Packed.pack_beside, os.getpid()

    def in_the_parent_only_when_told(packed, functions):
        begun.set()
        if os.getpid() == parent:
            goes_on.wait(60)
        real(packed, functions)

    monkeypatch.setattr(kernel_network, "AT_ONCE", 0)
    monkeypatch.setattr(Packed, "pack_beside", in_the_parent_only_when_told)
    weights = random_network(tiny_config(quantization_bit=8, ffn_hidden_size=64)).weights()
    network = KernelNetwork(weights)
    np.testing.assert_array_equal(logits(network), wanted)
    assert begun.wait(60)
    rows = [layer.weight.asnumpy() for layer in integers(weights)]
    child = os.fork()
    if not child:
        status = 1
        try:
            same = np.array_equal(logits(network), wanted)
            network.settle()
            packed = [layer.weight.asnumpy() is not one for layer, one in zip(integers(weights), rows, strict=True)]
            status = 0 if same and all(packed) and np.array_equal(logits(network), wanted) else 2
        finally:
            os._exit(status)
    goes_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    network.settle()
    np.testing.assert_array_equal(logits(network), wanted)


def test_a_layer_that_cannot_be_packed_computes_from_its_rows(monkeypatch, caplog):
    held = random_network(tiny_config(quantization_bit=4, ffn_hidden_size=64))
    wanted = logits(KernelNetwork(held.weights()))
    real, failed = Packed.pack_beside, []

    def fails_once(packed, functions):
        if not failed:
            failed.append(packed)
            raise OSError("no memory")
        real(packed, functions)

    monkeypatch.setattr(kernel_network, "AT_ONCE", 0)
    monkeypatch.setattr(Packed, "pack_beside", fails_once)
    weights = random_network(tiny_config(quantization_bit=4, ffn_hidden_size=64)).weights()
    rows = [layer.weight.asnumpy() for layer in integers(weights)]
    network = KernelNetwork(weights)
    logits(network)
    network.settle()
    np.testing.assert_array_equal(logits(network), wanted)
    kept = [layer.weight.asnumpy() is one for layer, one in zip(integers(weights), rows, strict=True)]
    assert sum(kept) == 1 and "computes more slowly: OSError: no memory" in caplog.text


def test_rows_loaded_after_packing_are_rows():
    held = random_network(tiny_config(quantization_bit=8, ffn_hidden_size=64))
    rows = {name: tensor.asnumpy().copy() for name, tensor in held.slots.items()}
    wanted = logits(KernelNetwork(held.weights()))
    assert any(tensor.is_in_panels for tensor in held.slots.values())
    held.load(rows)
    assert not any(tensor.is_in_panels for tensor in held.slots.values())
    np.testing.assert_array_equal(logits(KernelNetwork(held.weights())), wanted)


def test_a_weight_and_its_scales_are_replaced_together(monkeypatch):
    held = random_network(tiny_config(quantization_bit=8, ffn_hidden_size=64))
    wanted = logits(KernelNetwork(held.weights()))
    held = random_network(tiny_config(quantization_bit=8, ffn_hidden_size=64))
    first, second = KernelNetwork(held.weights()), KernelNetwork(held.weights())
    real, found = HeldTensor.keep, []
    beside = threading.Thread(target=lambda: found.append(logits(second)), daemon=True)

    def seen_in_between(tensor, bits, *, is_in_panels=False):
        real(tensor, bits, is_in_panels=is_in_panels)
        if beside.ident is None:
            beside.start()
            beside.join(0.2)

    monkeypatch.setattr(HeldTensor, "keep", seen_in_between)
    np.testing.assert_array_equal(logits(first), wanted)
    beside.join(60)
    np.testing.assert_array_equal(found[0], wanted)
