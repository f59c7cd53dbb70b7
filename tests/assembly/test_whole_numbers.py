"""W8A8 layers in the place of linear ones: what tensor ranks hold adds up, and what a network lacks is named."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_networks

from mindformers_glm.assembly.whole_numbers import part_of, put_whole_numbers
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.floats import float_weights, is_quantized
from mindformers_glm.models.w8a8 import make_w8a8, w8a8_layers
from mindformers_glm.ops.w8a8 import output, per_token, quantized
from mindformers_glm.quantization import quantize_model

NAME = "transformer.encoder.layers.1."
CONFIG = tiny_networks.tiny_config()


@pytest.mark.parametrize("token", [False, True])
def test_outputs_of_divided_inputs_add_up(token):
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(32, 48)).astype(np.float32), random.normal(size=32).astype(np.float32)
    layer = per_token(weight, bias) if token else quantized(weight, bias, -3.0, 3.0)
    x = random.normal(size=(5, 48)).astype(np.float32)
    if token:
        x[:, 0], x[:, 24] = 5, -5  # the same scale on both ranks
    layout = FAMILIES.of(CONFIG).divided(CONFIG, 2)
    parts = [part_of(NAME + "mlp.dense_4h_to_h", layer, layout, rank) for rank in (0, 1)]
    assert not parts[1].quant_bias.any() and not parts[1].fp_bias.any()
    both = sum(output(x[:, 24 * rank : 24 * rank + 24], part) for rank, part in enumerate(parts))
    np.testing.assert_allclose(both, output(x, layer), rtol=1e-5, atol=1e-5)


def test_rows_of_query_key_value_and_of_gate_and_up_go_to_their_ranks():
    random, layout = np.random.default_rng(1), FAMILIES.of(CONFIG).divided(CONFIG, 2)
    x = random.normal(size=(5, 32)).astype(np.float32)
    for name, rows in (("self_attention.query_key_value", 64), ("mlp.dense_h_to_4h", 96)):
        layer = quantized(random.normal(size=(rows, 32)).astype(np.float32), None, -3.0, 3.0)
        parts = [part_of(NAME + name, layer, layout, rank) for rank in (0, 1)]
        whole = output(x, layer).T
        for rank, part in enumerate(parts):
            assert np.array_equal(output(x, part).T, layout.cut(f"{NAME}{name}.bias", whole, rank))


def test_what_is_missing_is_said():
    model = tiny_networks.random_network(quantization_scheme="w8a8")
    with pytest.raises(ConfigError, match="inputs must have been seen"):
        put_whole_numbers(model, model.config, {}, "nowhere")
    layer = quantized(np.ones((3, 4), np.float32), None, -1.0, 1.0)
    with pytest.raises(CheckpointError, match="no plain linear layer nothing"):
        make_w8a8(model, {"nothing": layer})
    with pytest.raises(CheckpointError, match=r"shape \(3, 4\)"):
        make_w8a8(model, {NAME + "mlp.dense_4h_to_h": layer})
    assert not is_quantized(model)


@pytest.mark.parametrize("scheme", ["int8-row", "w8a8-token"])
def test_the_floats_that_integers_stand_for(scheme):
    model = tiny_networks.random_network()
    before = {one.name: one.asnumpy() for one in model.get_parameters()}
    quantize_model(model, scheme=scheme)
    floats = float_weights(model)
    assert is_quantized(model) and set(floats) == set(before)
    assert bool(w8a8_layers(model)) == (scheme == "w8a8-token")
    for name, value in before.items():
        error = np.abs(floats[name] - value).max() if floats[name].size else 0
        assert floats[name].shape == value.shape and error <= np.abs(value).max() / 120, name
