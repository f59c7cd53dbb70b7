"""A network without MindSpore whose numbers are random: what is measured does not depend on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mindformers_glm.assembly.held import HeldNetwork, HeldTensor
from mindformers_glm.checkpoint.formats.dtypes import DTYPES, convert_bits
from mindformers_glm.models import naming
from mindformers_glm.models.described import LINEAR
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.w8a8 import Layer

_SIGMA = 0.02  # of floats, and of what integers stand for
_BLOCK = 1 << 20  # numbers that are drawn; larger tensors repeat them


def random_network(
    config: NetworkConfig, *, seed: int = 0, whole: Callable[[np.ndarray, np.ndarray | None], Layer] | None = None
) -> HeldNetwork:
    """The network of a configuration with random weights; norms are 1.

    `whole` makes a W8A8 layer of a float weight (out, in) and bias (out); then every layer but the output layer is one.

    Raises:
        ConfigError: a CPU or its memory cannot hold it.
    """
    random = np.random.default_rng(seed)
    layers = None
    if whole is not None:
        shapes = naming.expected_shapes(config)
        layers = {}
        for path in (getattr(block, name) for block in naming.parts(config).blocks for name in LINEAR):
            bias = shapes.get(f"{path}.bias")
            weight = _normal(random, shapes[f"{path}.weight"])
            layers[path] = whole(weight, None if bias is None else _normal(random, bias))
    network = HeldNetwork(config, whole=layers)
    for tensor in network.slots.values():
        tensor.is_own = True
        _fill(tensor, random, is_scale=tensor.name.endswith("_scale"))
    return network


def _fill(tensor: HeldTensor, random: np.random.Generator, *, is_scale: bool) -> None:
    if tensor.dtype in ("int8", "uint8"):
        drawn = np.frombuffer(random.bytes(_BLOCK), DTYPES[tensor.dtype].storage)
        tensor.bits = np.resize(drawn, tensor.shape)
    elif is_scale:
        tensor.bits = np.full(tensor.shape, _SIGMA / 4, np.float16)
    elif tensor.name.endswith("norm.weight"):
        tensor.bits = convert_bits(np.ones(tensor.shape, np.float32), "float32", tensor.dtype)
    else:
        tensor.bits = convert_bits(_normal(random, tensor.shape), "float32", tensor.dtype)


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    size = min(_BLOCK, int(np.prod(shape)))
    return np.resize(random.standard_normal(size, np.float32) * np.float32(_SIGMA), shape)
