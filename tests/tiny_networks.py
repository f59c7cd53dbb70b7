"""Networks of a few thousand weights for tests: random ones, and the reference ones with their official weights."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors.numpy import load_file

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.weights import is_ignored, rename

TINY = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "kv_channels": 8,
    "ffn_hidden_size": 48,
    "padded_vocab_size": 101,
    "seq_length": 64,
    "param_init_type": "float32",
    "compute_dtype": "float32",
}


def tiny_config(**changes) -> ChatGLM2Config:
    """The configuration of a network with 2 layers of width 32."""
    return ChatGLM2Config(**{**TINY, **changes})


def random_network(*, seed: int = 0, scale: float = 0.3, **changes) -> ChatGLM2ForConditionalGeneration:
    """A tiny network whose weights are all far from their initial values, in eval mode."""
    model = ChatGLM2ForConditionalGeneration(tiny_config(**changes))
    rng = np.random.default_rng(seed)
    for name, parameter in sorted(model.parameters_dict().items()):
        value = rng.normal(0, scale, parameter.shape) + ("layernorm.weight" in name)
        parameter.set_data(Tensor(value.astype(np.float32)).astype(parameter.dtype))
    return model.set_train(False)


def set_weights(model, weights: dict[str, np.ndarray], *, partial: bool = False) -> None:
    """Writes the arrays into the network; every name must be known, and every parameter given unless `partial`."""
    parameters = model.parameters_dict()
    assert not set(weights) - set(parameters), sorted(set(weights) - set(parameters))
    assert partial or set(weights) == set(parameters), sorted(set(parameters) - set(weights))
    for name, value in weights.items():
        assert value.shape == parameters[name].shape, name
        parameters[name].set_data(Tensor(np.ascontiguousarray(value)).astype(parameters[name].dtype))


def hf_weights(folder: Path) -> dict[str, np.ndarray]:
    """The weights of a folder in the official format, under our names, float32."""
    weights = load_file(folder / "model.safetensors")
    return {rename(n, "hf", "ours"): v.astype(np.float32) for n, v in weights.items() if not is_ignored(n)}


def hf_network(folder: Path, **changes) -> ChatGLM2ForConditionalGeneration:
    """The network of such a folder with its weights, in eval mode."""
    config = ChatGLM2Config.from_hf(json.loads((folder / "config.json").read_text()), **changes)
    model = ChatGLM2ForConditionalGeneration(config)
    set_weights(model, hf_weights(folder), partial=bool(config.pet_config))
    return model.set_train(False)


def logits_of(model, input_ids) -> np.ndarray:
    """Logits (B, T, V) of ids (B, T), operator by operator: for tests of weights, which need no compiled graph."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        return model(Tensor(np.asarray(input_ids, np.int32))).asnumpy()
    finally:
        ms.set_context(mode=before)


def shift(labels: np.ndarray) -> np.ndarray:
    """Labels for the next token, as the dataset gives them, from labels in place."""
    shifted = np.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def loss_and_gradients(model, input_ids: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a batch and its gradient for every trainable parameter, by name."""
    parameters = model.trainable_params()
    step = ms.value_and_grad(model, None, parameters)
    loss, gradients = step(Tensor(input_ids, ms.int32), Tensor(labels, ms.int32))
    return float(loss), {p.name: g.astype(ms.float32).asnumpy() for p, g in zip(parameters, gradients, strict=True)}
