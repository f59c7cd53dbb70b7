"""A network without MindSpore: its weights as arrays, mapped from their files where type and layout allow.

`weights()` is what the kernels compute from. Names, shapes and types are those of the MindSpore network of the same
configuration, and so are the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mindformers_glm.adapters.config import LoraConfig, PrefixConfig
from mindformers_glm.adapters.low_rank import DELTA, chosen_layers, merged_weight, row_sizes
from mindformers_glm.assembly.memory import check_length
from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.formats.tensor_file import give_back
from mindformers_glm.checkpoint.load.filling import LoadReport, fill_from
from mindformers_glm.checkpoint.load.names import PREFIX_NAME, is_adapter
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models import described, naming
from mindformers_glm.models.device import check_device
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.rounding import Rounding
from mindformers_glm.ops.quantized import SCALE, Quantized
from mindformers_glm.ops.w8a8 import Layer

_PARTS: Any = described.BlockWeights._fields


class HeldTensor:
    """A tensor by its name, shape and type; its bits are there once it has been filled."""

    __slots__ = ("_kept", "dtype", "is_own", "name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str, bits: np.ndarray | None = None) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self.is_own = False  # nobody else has this memory
        self.keep(bits)

    def keep(self, bits: np.ndarray | None, *, is_in_panels: bool = False) -> None:
        """Replaces its bits and their order at once: another thread sees both of before or both of after."""
        self._kept = (bits, is_in_panels)

    @property
    def kept(self) -> tuple[np.ndarray, bool]:
        """Its bits, and whether they are integers in the order of the kernels, both of one moment."""
        bits, is_in_panels = self._kept
        assert bits is not None, self.name
        return bits, is_in_panels

    @property
    def bits(self) -> np.ndarray | None:
        """Its bits; None while there are none. Those that are set are in rows."""
        return self._kept[0]

    @bits.setter
    def bits(self, bits: np.ndarray | None) -> None:
        self.keep(bits)

    @property
    def is_in_panels(self) -> bool:
        """Whether its integers are in the order of the kernels, which then is the only one there is."""
        return self._kept[1]

    @property
    def has_init(self) -> bool:
        """True while there are no numbers."""
        return self.bits is None

    def data_ptr(self) -> int:
        """Where its first number is."""
        return self.asnumpy().ctypes.data

    def asnumpy(self) -> np.ndarray:
        """Its bits, in a type that NumPy knows (checkpoint/formats/dtypes.py)."""
        return self.kept[0]

    def let_go(self) -> None:
        """Gives back the memory of pages of its file; they are read again when they are touched."""
        give_back(self.asnumpy())

    def floats(self) -> np.ndarray:
        """Its numbers as float32."""
        return convert_bits(self.asnumpy(), self.dtype, "float32")


class _Integers(Rounding):
    """A weight of integers and its scales."""

    def __init__(self, weight: HeldTensor, scale: HeldTensor, *, columns: int, group: int, scheme: str | None) -> None:
        self.weight, self.scale, self.scheme = weight, scale, scheme
        self.bits, self.group_size = 8 if weight.dtype == "int8" else 4, group
        self.in_channels, self.out_channels = columns, weight.shape[0]

    def hold(self, found: Quantized) -> None:
        """Takes integers as they are."""
        self.weight.bits, self.scale.bits = found.weight, found.scale
        self.weight.is_own = self.scale.is_own = True


class HeldNetwork:
    """A network of a configuration, without values: `load` weights into it.

    `whole` are its W8A8 layers, by the names of their weights without `.weight`.

    Raises:
        ConfigError: a CPU or its memory cannot hold it, or `pet_config` names no layer.
        CheckpointError: a W8A8 layer that the network does not have, or has in another shape.
    """

    is_mapped = True

    def __init__(
        self, config: NetworkConfig, *, whole: Mapping[str, Layer] | None = None, place: str = "W8A8 weights"
    ) -> None:
        check_length(config)
        check_device(config, "CPU")
        self.config, self.tied = config, naming.tied(config)
        self._parts, self._layers = naming.parts(config), dict(whole or {})
        self.whole = list(self._layers)
        shapes, types = naming.expected_shapes(config), naming.expected_types(config)
        self.slots = {name: HeldTensor(name, shape, types[name]) for name, shape in shapes.items()}
        wide = naming.expected_shapes(
            config.model_copy(update={"quantization_bit": 0, "quantization_embedding_bits": 0})
        )
        self._sizes = {path: _size(wide, path, self.tied) for path in self._linear_paths()}
        for name, layer in self._layers.items():
            self._check_whole(name, layer, place)
            for leaf in ("weight", "bias"):
                self.slots.pop(f"{name}.{leaf}", None)
        self.rounded: dict[str, Rounding] = {}
        for name in [name for name in self.slots if name + SCALE in self.slots]:
            columns = wide[self.tied.get(name, name)][1]
            group = config.quantization_group_size or columns
            scheme = None if name == self._parts.table else config.quantization_scheme
            scale = self.slots[name + SCALE]
            self.rounded[name] = _Integers(self.slots[name], scale, columns=columns, group=group, scheme=scheme)
        self._is_read = False
        self._adapted: list[str] = []
        self._scaling = 0.0
        if isinstance(config.adapter, LoraConfig):
            self._add_lora(config.adapter)
        elif isinstance(config.adapter, PrefixConfig):
            columns = config.num_layers * 2 * config.num_kv_heads * config.kv_channels
            self._add(PREFIX_NAME, (config.adapter.pre_seq_len, columns), "float32")

    @property
    def may_be_panels(self) -> set[str]:
        """Integers of linear layers and their scales: a table is looked up by rows."""
        names = [name for name in self.rounded if name != self._parts.table]
        return {*names, *(name + SCALE for name in names)}

    def put(self, name: str, bits: np.ndarray, *, is_in_panels: bool = False) -> None:
        """Sets a tensor to these bits of its own type; `is_in_panels`: integers in the order of the kernels."""
        tensor = self.slots[name]
        whole = np.ascontiguousarray(bits)
        tensor.keep(whole, is_in_panels=is_in_panels)
        tensor.is_own = self._is_read and whole.flags.writeable

    def load(self, source: WeightSource | Mapping[str, np.ndarray], *, new_adapter: bool = False) -> LoadReport:
        """Fills it from files, or arrays under our names; see `filling.fill_from`.

        Raises:
            CheckpointError: as `fill_from`.
        """
        self._is_read = isinstance(source, WeightSource)  # arrays belong to the caller
        report = fill_from(self, source, new_adapter=new_adapter)
        loaded = set(report.loaded)
        for path in self._adapted:  # DoRA begins with the lengths of the rows of W
            magnitude = self.slots.get(f"{path}.{DELTA}_m")
            if magnitude is not None and f"{path}.weight" in loaded and magnitude.name not in loaded:
                magnitude.bits = np.linalg.norm(self._tensor(f"{path}.weight").floats(), axis=1).astype(np.float32)
        return report

    def tensors(self) -> list[HeldTensor]:
        """Every tensor that is computed with."""
        whole = [_whole(path, layer) for path, layer in self._layers.items()]
        parts = [(one.weight, one.bias, one.whole.deq_scale, one.whole.quant_bias) for one in whole if one.whole]
        return [*self.slots.values(), *(held for group in parts for held in group if isinstance(held, HeldTensor))]

    def missing(self) -> list[str]:
        """Tensors that have no values."""
        return [name for name, tensor in self.slots.items() if tensor.has_init]

    def share(self, base: HeldNetwork) -> None:
        """Takes every tensor but its adapter's from another network: nothing is copied."""
        for name, tensor in base.slots.items():
            if not is_adapter(name) and name in self.slots:
                self.slots[name] = tensor

    def weights(self) -> described.NetworkWeights:
        """What kernels compute from."""
        parts = self._parts
        blocks = [
            described.BlockWeights(*[self._part(name, getattr(block, name)) for name in _PARTS])
            for block in parts.blocks
        ]
        table, scale = self.slots[parts.table], self.slots.get(parts.table + SCALE)
        group = 0 if scale is None else self.rounded[parts.table].group_size
        return described.NetworkWeights(
            config=self.config,
            rotary=naming.rotary(self.config),
            table=described.LinearWeights(table, scale=scale, group=group),
            blocks=tuple(blocks),
            final_norm=None if parts.final_norm is None else self._norm(parts.final_norm),
            head=self._linear(parts.head),
            prefix=self.slots.get(PREFIX_NAME),
        )

    def _linear_paths(self) -> list[str]:
        blocks = [getattr(block, name) for block in self._parts.blocks for name in described.LINEAR]
        return [*blocks, self._parts.head]

    def _add(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self.slots[name] = HeldTensor(name, shape, dtype)

    def _add_lora(self, config: LoraConfig) -> None:
        self._scaling = config.scaling
        self._adapted = chosen_layers([path for path in self._linear_paths() if path not in self._layers], config)
        for path in self._adapted:
            rows, columns = self._sizes[path]
            self._add(f"{path}.{DELTA}_a", (config.lora_rank, columns), config.param_init_type)
            self._add(f"{path}.{DELTA}_b", (rows, config.lora_rank), config.param_init_type)
            if config.use_dora:
                self._add(f"{path}.{DELTA}_m", (rows,), "float32")

    def _check_whole(self, name: str, layer: Layer, place: str) -> None:
        if name not in self._sizes:
            fault = f"the network has no plain linear layer {name}"
            raise CheckpointError(place, fault, "Name the weights of this model.")
        if layer.quant_weight.shape != self._sizes[name]:
            fault = f"{name} has shape {layer.quant_weight.shape}, the network {self._sizes[name]}"
            raise CheckpointError(place, fault, "Name the weights of this model.")

    def _tensor(self, name: str) -> HeldTensor:
        return self.slots[name] if name in self.slots else self.slots[self.tied[name]]

    def _part(self, name: str, path: str | None) -> Any:
        if path is None:
            return None
        return self._linear(path) if name in described.LINEAR else self._norm(path)

    def _norm(self, path: str) -> described.NormWeights:
        return described.NormWeights(self.slots[f"{path}.weight"], self.slots.get(f"{path}.bias"))

    def _linear(self, path: str) -> described.LinearWeights:
        if path in self._layers:
            return _whole(path, self._layers[path])
        weight = self._tensor(f"{path}.weight")
        rounded = self.rounded.get(weight.name) if weight.name == f"{path}.weight" else None
        low = self._low_rank(path, weight) if path in self._adapted else None
        found = described.LinearWeights(weight, self.slots.get(f"{path}.bias"), low_rank=low)
        if rounded is None:
            return found
        return found._replace(scale=self.slots[weight.name + SCALE], group=rounded.group_size)

    def _low_rank(self, path: str, weight: HeldTensor) -> described.LowRank:
        down, up = self.slots[f"{path}.{DELTA}_a"], self.slots[f"{path}.{DELTA}_b"]
        magnitude, scale = self.slots.get(f"{path}.{DELTA}_m"), self._scaling
        if magnitude is None:
            return described.LowRank(down, up, scale)
        three = partial(_three, weight, down, up)

        def factor() -> np.ndarray:
            return magnitude.floats() / row_sizes(*three(), scale)

        def merged() -> np.ndarray:
            return merged_weight(*three(), scale, magnitude.floats())

        return described.LowRank(down, up, scale, magnitude, factor, merged)


def _three(weight: HeldTensor, down: HeldTensor, up: HeldTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return weight.floats(), down.floats(), up.floats()


def _size(shapes: Mapping[str, tuple[int, ...]], path: str, tied: Mapping[str, str]) -> tuple[int, int]:
    name = f"{path}.weight"
    rows, columns = shapes[name if name in shapes else tied[name]]
    return rows, columns


def _whole(path: str, layer: Layer) -> described.LinearWeights:
    """A W8A8 layer; a bias is added to floats only where each row of inputs has a scale of its own."""

    def held(values: np.ndarray, name: str, dtype: str) -> HeldTensor:
        return HeldTensor(f"{path}.{name}", values.shape, dtype, np.ascontiguousarray(values))

    inputs = (float(layer.input_scale[0]), float(layer.input_offset[0]))
    bias = held(layer.fp_bias, "bias", "float32") if inputs[0] == 0 and layer.fp_bias.any() else None
    rest = described.WholeNumbers(
        held(layer.deq_scale, "deq_scale", "float32"), held(layer.quant_bias, "quant_bias", "int32"), inputs
    )
    return described.LinearWeights(held(layer.quant_weight, "weight", "int8"), bias, whole=rest)
