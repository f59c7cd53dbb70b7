"""Float weights taken as integers, a few rows at a time; whatever holds the integers. No MindSpore here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from mindformers_glm.ops.kernels.memory import small_pages
from mindformers_glm.ops.quantized import (
    Quantized,
    exactly,
    least_and_most,
    packed,
    packed_columns,
    quantize,
    squared_error,
)
from mindformers_glm.registry import SCHEMES
from mindformers_glm.threads import side_by_side

_BLOCK_NUMBERS = 1 << 18  # of a float weight that a thread looks at together
_BLOCK_INTEGERS = 1 << 18  # they fit into a CPU's cache with what is computed from them


class Rounding:
    """A weight (out, in) that is held as integers of 8 or 4 bits with a scale for each group of columns."""

    bits: int
    group_size: int
    in_channels: int
    out_channels: int
    error: float | None = None  # relative, of the weight that was taken
    scheme: str | None = None  # whose rule rounds; None: that of the bits

    @abstractmethod
    def hold(self, found: Quantized) -> None:
        """Takes integers as they are, and their memory."""

    def take(self, weight: np.ndarray, scales: np.ndarray | None = None) -> Quantized:
        """Takes the integers nearest to a float weight (out, in), and returns them; see `take_rows`."""
        return self.take_rows(lambda start, stop: weight[start:stop], scales)

    def take_rows(self, rows: Callable[[int, int], np.ndarray], scales: np.ndarray | None = None) -> Quantized:
        """Takes the integers of a float weight (out, in) of which `rows` gives a few at a time, to several threads at a
        time, and returns them.

        With `scales` (out, groups) of the integers that the weight was before, it is taken as these where it can be.
        """
        settings = {"bits": self.bits, "group_size": self.group_size}
        found = None if scales is None else self._joined(rows, lambda part, at: exactly(part, scales[at], **settings))
        if found is None:
            found = self._joined(rows, lambda part, _: self.nearest(part))
        assert found is not None
        self.hold(found)
        return found

    def take_integers(self, rows: Callable[[int, int], np.ndarray], scales: np.ndarray, *, is_held_so: bool) -> bool:
        """Takes the integers of a file as they are, if they can be held so: whether it has.

        `rows` gives some of int8 (out, in), or of what the layer holds (`is_held_so`), to several threads at a time;
        `scales` are finite float16 (out, groups).
        """
        groups, least = scales.shape[1], least_and_most(self.bits)
        if not groups or self.in_channels % groups or (self.in_channels // groups) % self.group_size:
            return False
        if not np.isfinite(scales).all():
            return False  # whoever reads the floats says which they are
        weight = self._empty()
        step = max(1, _BLOCK_INTEGERS // self.in_channels)

        def some(begin: int) -> bool:
            part = rows(begin, min(begin + step, self.out_channels))
            if is_held_so:
                weight[begin : begin + step] = part
                return True
            if part.min() < least[0] or part.max() > least[1]:
                return False
            weight[begin : begin + step] = packed(part, self.bits)
            return True

        if not all(side_by_side(some, range(0, self.out_channels, step))):
            return False
        self.hold(Quantized(weight, np.repeat(scales, self.in_channels // groups // self.group_size, axis=1)))
        self.error = 0.0
        return True

    def nearest(self, weight: np.ndarray) -> Quantized:
        """The integers of float rows, by the rule of the scheme."""
        if self.scheme is not None:
            scheme = SCHEMES.get(self.scheme)()
            if scheme.bits == self.bits:
                return scheme.quantise(weight, group_size=self.group_size)
        return quantize(weight, bits=self.bits, group_size=self.group_size)

    def _empty(self) -> np.ndarray:
        columns = packed_columns(self.in_channels, self.bits)
        return small_pages((self.out_channels, columns), np.int8 if self.bits == 8 else np.uint8)

    def _joined(
        self, rows: Callable[[int, int], np.ndarray], made: Callable[[np.ndarray, slice], Quantized | None]
    ) -> Quantized | None:
        """What `made` makes of a few rows at a time, together; None where it makes nothing of some."""
        weight = self._empty()
        scale = np.empty((self.out_channels, self.in_channels // self.group_size), np.float16)
        step, lost, whole = max(1, _BLOCK_NUMBERS // self.in_channels), 0.0, 0.0

        def some(begin: int) -> tuple[float, float] | None:
            at = slice(begin, min(begin + step, self.out_channels))
            part = np.asarray(rows(at.start, at.stop), np.float32)
            found = made(part, at)
            if found is None:
                return None
            weight[at], scale[at] = found
            return squared_error(found, part, bits=self.bits)

        for errors in side_by_side(some, range(0, self.out_channels, step)):
            if errors is None:
                return None
            lost, whole = lost + errors[0], whole + errors[1]
        self.error = (lost / whole) ** 0.5 if whole else 0.0
        return Quantized(weight, scale)
