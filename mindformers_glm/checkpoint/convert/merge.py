"""LoRA into the weights it adapts, a layer at a time, and the proof that nothing else changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mindformers_glm.adapters.config import scaling_of
from mindformers_glm.adapters.low_rank import merged_weight
from mindformers_glm.checkpoint.convert.checks import check_adapter, check_complete
from mindformers_glm.checkpoint.formats.blocks import array_blocks
from mindformers_glm.checkpoint.formats.dtypes import FLOATS, convert_bits, float_name
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.names import LORA_NAME, is_adapter
from mindformers_glm.checkpoint.load.source import WeightSource, check_adapter_kinds
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.interface import NetworkConfig

_EPSILON = {"float64": 0.0, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class LayerCheck(NamedTuple):
    """How far the merged layer is from layer plus adapter on random input, relative to the output's size."""

    layer: str
    error: float
    limit: float


class MergedSource:
    """Base weights with an adapter added (adapters/low_rank.py) in float32, then in `dtype` or the type of W.

    Raises:
        CheckpointError: the adapter does not fit the base, or there is none.
    """

    def __init__(
        self,
        base: WeightSource,
        adapter: WeightSource,
        config: NetworkConfig,
        pet_config: dict,
        *,
        dtype: str | None = None,
    ) -> None:
        self.path, self.files = base.path, [*base.files, *(f for f in adapter.files if f not in base.files)]
        self.format, self.naming, self.kind = base.format, base.naming, "weights"
        self.base, self.adapter = base, adapter
        self.merged_dtype = float_name(dtype) if dtype else None
        check_adapter_kinds(adapter.path, adapter.unknown)
        self.layers = peft.adapted_layers(adapter.names)
        if not self.layers:
            raise CheckpointError(str(adapter.path), "it has no LoRA", "Give the adapter that is to be merged.")
        whole = [f"{layer}.weight" for layer in self.layers if f"{layer}.weight" in base]
        if any(base.dtype(name) not in FLOATS for name in whole):
            fix = "Give the float weights that it was made of as --base, and this as --adapter."
            raise CheckpointError(str(base.path), "its weights are integers, which hold no merged adapter", fix)
        check_complete(base, self.names, config)
        check_adapter(adapter, adapter.names, config, pet_config)
        rank = adapter.shape(self.layers[0] + LORA_NAME + "a")[0]
        self.scale = scaling_of(
            float(pet_config["lora_alpha"]), rank, use_rslora=bool(pet_config.get("use_rslora", False))
        )
        self._adapted = {layer + ".weight": layer for layer in self.layers}

    @property
    def names(self) -> list[str]:
        """Names of the base weights."""
        return [name for name in self.base.names if not is_adapter(name)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a base weight."""
        return self.base.shape(name)

    def dtype(self, name: str) -> str:
        """Type of a weight."""
        return self.merged_dtype if self.merged_dtype and name in self._adapted else self.base.dtype(name)

    def read_bits(self, name: str) -> np.ndarray:
        """Bits of a weight, merged where it is adapted."""
        bits = self.base.read_bits(name)
        if name not in self._adapted:
            return bits
        wide = convert_bits(bits, self.base.dtype(name), "float32")
        layer = self._adapted[name]
        merged = merged_weight(wide, *self.matrices(layer), self.scale, self.magnitude(layer))
        return convert_bits(merged, "float32", self.dtype(name))

    def blocks(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows as flat blocks."""
        if name not in self._adapted:
            return self.base.blocks(name, start, stop)
        return array_blocks(self.read_bits(name), start, stop)

    def matrices(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """A (rank, in) and B (out, rank) of a layer in float32."""
        names = [layer + LORA_NAME + letter for letter in "ab"]
        a, b = (convert_bits(self.adapter.read_bits(n), self.adapter.dtype(n), "float32") for n in names)
        return a, b

    def magnitude(self, layer: str) -> np.ndarray | None:
        """DoRA's lengths of the rows (out,) of a layer; None for an adapter without."""
        name = layer + LORA_NAME + "m"
        if name not in self.adapter:
            return None
        return convert_bits(self.adapter.read_bits(name), self.adapter.dtype(name), "float32")

    def check_layers(self, merged: WeightSource, *, seed: int = 0) -> list[LayerCheck]:
        """Each adapted layer of the written file against base plus adapter, on random rows.

        `limit` is what rounding W to its type may cost.

        Raises:
            CheckpointError: a layer differs by more.
        """
        random, checks = np.random.default_rng(seed), []
        for name, layer in self._adapted.items():
            x = random.standard_normal((4, self.shape(name)[1])).astype(np.float32)
            base = convert_bits(self.base.read_bits(name), self.base.dtype(name), "float32")
            down, up = self.matrices(layer)
            wanted = x @ base.T + np.float32(self.scale) * ((x @ down.T) @ up.T)
            size = self.magnitude(layer)
            if size is not None:
                wanted *= size / np.linalg.norm(base + np.float32(self.scale) * (up @ down), axis=1)
            got = x @ convert_bits(merged.read_bits(name), merged.dtype(name), "float32").T
            error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
            checks.append(LayerCheck(layer, error, 2 * max(_EPSILON[merged.dtype(name)], _EPSILON["float32"] * 64)))
        wrong = [check for check in checks if not check.error <= check.limit]
        if wrong:
            raise CheckpointError(
                str(merged.path), f"{wrong[0].layer} differs by {wrong[0].error:.2g} after merging", "Merge it again."
            )
        return checks


def logits_differ(with_adapter: np.ndarray, merged: np.ndarray) -> float:
    """Largest difference of two arrays of logits, in standard deviations of the first."""
    return float(np.abs(with_adapter - merged).max() / with_adapter.std())
