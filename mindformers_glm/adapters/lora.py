"""Low-rank adapters (Hu et al., LoRA, 2021) under MindFormers' parameter names."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from fnmatch import fnmatchcase
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, initializer

from mindformers_glm.adapters.config import LoraConfig, read_pet_config
from mindformers_glm.adapters.low_rank import DELTA, chosen_layers, merged_weight
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.linear import Linear
from mindformers_glm.models.quantized import IntegerWeight, QuantizedLinear
from mindformers_glm.ops.linear import Matmul, matrix_type


class LoraLinear(nn.Cell):
    """W x + b + scaling * B A dropout(x), with W and b of the layer that it stands for; with DoRA f * (...) + b.

    The size of W + scaling * B A counts as a constant in the gradient, as in the paper (section 4.3) and in peft. Where
    there is dropout peft multiplies W by the dropped x once more in DoRA; here dropout is the adapter's alone.
    """

    is_plain = False

    def __init__(self, base: Linear | QuantizedLinear, config: LoraConfig):
        nn.Cell.__init__(self)
        kind = getattr(ms, config.param_init_type)
        self.in_channels, self.out_channels, self.dtype = base.in_channels, base.out_channels, base.dtype
        self.weight, self.bias = base.weight, base.bias
        down, up = (config.lora_rank, base.in_channels), (base.out_channels, config.lora_rank)
        self.mindpet_delta_lora_a = Parameter(initializer(HeUniform(math.sqrt(5)), down, kind), name=DELTA + "_a")
        self.mindpet_delta_lora_b = Parameter(initializer("zeros", up, kind), name=DELTA + "_b")
        self.mindpet_delta_lora_m = None
        if config.use_dora:
            self.mindpet_delta_lora_m = Parameter(initializer("ones", (base.out_channels,)), name=DELTA + "_m")
        self.rows, self.join_rows = None, None  # DoRA's, where replicas hold rows of the weight (parallel/sharding.py)
        self.drop = nn.Dropout(p=config.lora_dropout) if config.lora_dropout else None
        self.scale = config.scaling
        self.delta_dtype, rounded = matrix_type(config.compute_dtype) if config.compute_dtype else (base.dtype, False)
        self.matmul, self.low_matmul = base.matmul, Matmul(rounded=rounded)
        self.low_matmul.kernel_is_on = base.matmul.kernel_is_on  # off where the layer is recomputed

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, in) -> (N, out) in the type of the layer."""
        x = ops.cast(x, self.dtype)
        low = x if self.drop is None else self.drop(x)
        low = self.low_matmul(ops.cast(low, self.delta_dtype), self.mindpet_delta_lora_a) * self.scale
        low = self.low_matmul(low, self.mindpet_delta_lora_b)
        if self.mindpet_delta_lora_m is None:
            return self.whole(x) + ops.cast(low, self.dtype)
        factor = self.mindpet_delta_lora_m / ops.stop_gradient(self.sizes())
        out = (self.matmul(x, self.weight) + ops.cast(low, self.dtype)) * ops.cast(factor, self.dtype)
        return out if self.bias is None else out + ops.cast(self.bias, self.dtype)

    def whole(self, x: Tensor) -> Tensor:
        """W x + b."""
        return self.matmul(x, self.weight, self.bias)

    def sizes(self) -> Tensor:
        """The Euclidean length (out,) of each row of W + scaling * B A, which is never made."""
        down = ops.cast(self.mindpet_delta_lora_a, ms.float32)
        up = ops.cast(self.mindpet_delta_lora_b, ms.float32)
        if self.rows is not None:
            up = up[self.rows[0] : self.rows[1]]
        weight = ops.cast(self.weight, ms.float32)
        crossed = (ops.matmul(weight, down.T) * up).sum(-1)
        low = (ops.matmul(up, ops.matmul(down, down.T)) * up).sum(-1)
        sizes = ops.sqrt(ops.square(weight).sum(-1) + 2 * self.scale * crossed + self.scale**2 * low)
        return sizes if self.join_rows is None else self.join_rows(sizes)

    def merged(self) -> np.ndarray:
        """W + scaling * B A, times f with DoRA: the weight (out, in) that does the same, as float32."""
        return merged_weight(
            self.weight.astype(ms.float32).asnumpy(),
            self.mindpet_delta_lora_a.astype(ms.float32).asnumpy(),
            self.mindpet_delta_lora_b.astype(ms.float32).asnumpy(),
            self.scale,
            None if self.mindpet_delta_lora_m is None else self.mindpet_delta_lora_m.asnumpy(),
        )

    def begin_magnitude(self) -> None:
        """Makes DoRA's magnitudes the lengths of the rows of W: with B = 0 the adapter then changes nothing."""
        if self.mindpet_delta_lora_m is None:
            return
        sizes = Tensor(np.linalg.norm(self.weight.astype(ms.float32).asnumpy(), axis=1).astype(np.float32))
        self.mindpet_delta_lora_m.set_data(sizes if self.join_rows is None else self.join_rows(sizes))


class QuantizedLoraLinear(IntegerWeight, LoraLinear):
    """LoRA on a weight of integers, which stays as it is (QLoRA; Dettmers et al. 2023)."""

    def __init__(self, base: QuantizedLinear, config: LoraConfig):
        LoraLinear.__init__(self, base, config)
        self.weight_scale, self.bits, self.group_size = base.weight_scale, base.bits, base.group_size

    def whole(self, x: Tensor) -> Tensor:
        """W x + b."""
        return self.matmul(x, self.weight, self.weight_scale, self.bias)

    def merged(self) -> np.ndarray:
        """Raises ConfigError: what is merged is no integer any more."""
        fix = (
            "Integers hold no merged weight: merge the adapter into the float base (merge-lora --base FLOAT --adapter)."
        )
        raise ConfigError("quantization_bit", self.bits, fix)


def begin_magnitudes(model: nn.Cell, loaded: Container[str]) -> None:
    """Begins DoRA anew where the weight of a layer is among the `loaded` names and its magnitude is not."""
    for path, cell in model.cells_and_names():
        is_dora = isinstance(cell, LoraLinear) and cell.mindpet_delta_lora_m is not None
        is_new = f"{path}.weight" in loaded and f"{path}.{DELTA}_m" not in loaded
        if is_dora and is_new and not cell.weight.has_init:
            cell.begin_magnitude()


def add_lora(model: nn.Cell, pet_config: Mapping[str, Any] | LoraConfig) -> nn.Cell:
    """The same model with adapters on the layers that `pet_config` names; everything else is frozen.

    Raises:
        ConfigError: a wrong key or value, no layer with such a name, or adapters there already.
    """
    config = pet_config if isinstance(pet_config, LoraConfig) else read_pet_config(pet_config)
    if not isinstance(config, LoraConfig):
        raise ConfigError("pet_config.pet_type", config.pet_type, "add_lora attaches 'lora' only.")
    cells = dict(model.cells_and_names())
    if any(isinstance(cell, LoraLinear) for cell in cells.values()):
        raise ConfigError("pet_config", dict(config), "This model has adapters already: attach them once.")
    chosen = chosen_layers(
        [path for path, cell in cells.items() if isinstance(cell, (Linear, QuantizedLinear))], config
    )
    for path in chosen:
        cell = cells[path]
        parent, _, name = path.rpartition(".")
        kind = QuantizedLoraLinear if isinstance(cell, QuantizedLinear) else LoraLinear
        setattr(cells[parent], name, kind(cell, config))
    layers = [cell for _, cell in model.cells_and_names() if isinstance(cell, IntegerWeight)]
    integers = {id(parameter) for cell in layers for parameter in (cell.weight, cell.weight_scale)}
    for path, parameter in model.parameters_and_names():
        parameter.name = path  # a weight that moved into a new Cell has lost its path
        parameter.requires_grad = _trains(path, config) and id(parameter) not in integers
    if config.use_dora:
        begin_magnitudes(model, [f"{path}.weight" for path in chosen])
    return model


def merge(model: nn.Cell) -> dict[str, np.ndarray]:
    """The weights of the same network without adapters: name -> array, the merged weight where there was one.

    The sum is taken in float32 and returned in the type of W. Weights without an adapter are the network's own memory,
    not copies: save them or copy them before training on.
    """
    weights = {name: value.asnumpy() for name, value in model.parameters_dict().items() if DELTA not in name}
    for path, cell in model.cells_and_names():
        if isinstance(cell, LoraLinear):
            weights[path + ".weight"] = cell.merged().astype(weights[path + ".weight"].dtype)
    return weights


def _trains(name: str, config: LoraConfig) -> bool:
    def listed(patterns: list[str] | None) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns or [])

    return (DELTA in name and not listed(config.freeze_include)) or listed(config.freeze_exclude)
