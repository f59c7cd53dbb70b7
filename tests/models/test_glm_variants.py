"""Every flag that changes the network, against a reference in plain numpy written from the equations."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import random_network

pytestmark = pytest.mark.usefixtures("pynative")

TOKENS = np.array([[5, 17, 99, 3, 42, 8, 0], [1, 1, 2, 100, 64, 9, 33]], np.int32)
LAYER = "transformer.encoder.layers.{}."


def normed(x, weights, name, config):
    if config.rmsnorm:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.layernorm_epsilon) * weights[name + ".weight"]
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.layernorm_epsilon)
    return x * weights[name + ".weight"] + weights[name + ".bias"]


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0)


def turned(x, config):
    """Pairs of the first half of each head as complex numbers, turned. x (T, heads, E)."""
    half, place = x.shape[-1] // 2, np.arange(len(x), dtype=float)
    base = 10000.0 * (config.rope_ratio if config.rope_method == "base" else 1)
    place /= config.rope_ratio if config.rope_method == "linear" else 1
    angle = np.outer(place, base ** (-np.arange(0, half, 2) / half))[:, None]
    pairs = (x[..., 0:half:2] + 1j * x[..., 1:half:2]) * np.exp(1j * angle)
    x = x.copy()
    x[..., 0:half:2], x[..., 1:half:2] = pairs.real, pairs.imag
    return x


def attention(x, weights, name, config):
    heads, groups, width = config.num_attention_heads, config.num_kv_heads, config.kv_channels
    qkv = linear(x, weights, name + ".query_key_value")
    if config.multi_query_attention:
        q, k, v = np.split(qkv, np.cumsum([heads * width, groups * width]), -1)
        q, k, v = q.reshape(-1, heads, width), k.reshape(-1, groups, width), v.reshape(-1, groups, width)
    else:
        q, k, v = np.split(qkv.reshape(-1, heads, 3 * width), 3, -1)
    q, k, out = turned(q, config), turned(k, config), np.zeros_like(q)
    for head in range(heads):
        group = head * groups // heads
        score = q[:, head] @ k[:, group].T / np.sqrt(width)
        score = np.where(np.tri(len(x), dtype=bool), score, -np.inf)
        score = np.exp(score - score.max(-1, keepdims=True))
        out[:, head] = score / score.sum(-1, keepdims=True) @ v[:, group]
    return linear(out.reshape(len(x), -1), weights, name + ".dense")


def reference(model, tokens):
    """Logits (T, V) of one sequence."""
    config = model.config
    weights = {name: value.asnumpy().astype(float) for name, value in model.parameters_dict().items()}
    x = weights["transformer.embedding.embedding_table"][tokens]
    for i in range(config.num_layers):
        layer = LAYER.format(i)
        h = normed(x, weights, layer + "input_layernorm", config)
        x = (h if config.apply_residual_connection_post_layernorm else x) + attention(
            h, weights, layer + "self_attention", config
        )
        h = normed(x, weights, layer + "post_attention_layernorm", config)
        gate, up = np.split(linear(h, weights, layer + "mlp.dense_h_to_4h"), 2, -1)
        out = linear(gate / (1 + np.exp(-gate)) * up, weights, layer + "mlp.dense_4h_to_h")
        x = (h if config.apply_residual_connection_post_layernorm else x) + out
    if config.post_layer_norm:
        x = normed(x, weights, "transformer.encoder.final_layernorm", config)
    return linear(x, weights, "transformer.output_layer")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rmsnorm": False},
        {"post_layer_norm": False},
        {"apply_residual_connection_post_layernorm": True},
        {"add_bias_linear": True},
        {"add_qkv_bias": False},
        {"multi_query_attention": False},
        {"multi_query_group_num": 1},
        {"multi_query_group_num": 4},
        {"kv_channels": 16},
        {"rope_ratio": 50},
        {"rope_ratio": 16, "rope_method": "linear"},
        {"layernorm_epsilon": 0.5},
        {"apply_query_key_layer_scaling": False, "attention_softmax_in_fp32": False},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()) or "plain",
)
def test_every_flag_does_what_it_says(changes):
    model = random_network(**changes)
    logits = model(Tensor(TOKENS)).asnumpy()
    for row, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(logits[row], reference(model, tokens), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype, atol", [("float16", 0.03), ("float32", 1e-6)])
def test_types_of_parameters_and_of_computing(dtype, atol):
    exact = random_network(scale=0.1)
    model = random_network(scale=0.1, param_init_type="float16", compute_dtype=dtype)
    kinds = {name.rpartition("layers.0.")[2]: value.dtype for name, value in model.parameters_dict().items()}
    assert kinds["self_attention.query_key_value.weight"] == ms.float16
    assert kinds["input_layernorm.weight"] == kinds["transformer.embedding.embedding_table"] == ms.float32
    for name, value in model.parameters_dict().items():
        exact.parameters_dict()[name].set_data(value.astype(ms.float32))
    logits = model(Tensor(TOKENS))
    assert logits.dtype == ms.float32
    np.testing.assert_allclose(logits.asnumpy(), exact(Tensor(TOKENS)).asnumpy(), atol=atol)
