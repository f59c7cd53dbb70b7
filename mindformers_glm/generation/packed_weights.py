"""Weights in another form than the layer holds: packed integers, and weights merged with their DoRA adapter."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers_glm.log import logger
from mindformers_glm.models.described import LinearWeights, kept
from mindformers_glm.ops.kernels.memory import Arena, padded
from mindformers_glm.ops.kernels.structures import KINDS, LAYOUTS, W8A8, LinearStruct, address, kind_of
from mindformers_glm.ops.panels import PANEL

_REPLACING = threading.Lock()  # a weight and its scales are replaced, and looked at, together
_SAMPLES = 64  # numbers of an integer weight that are compared to see whether it has changed


class Merged:
    """The weight of a layer merged with its DoRA adapter: no kernel rescales rows to another length."""

    def __init__(self, structure: LinearStruct, layer: LinearWeights) -> None:
        self.structure, self.weight_held = structure, layer.weight
        assert layer.low_rank is not None and layer.low_rank.magnitude is not None
        assert layer.low_rank.merged is not None
        self.factors = (layer.low_rank.down, layer.low_rank.up, layer.low_rank.magnitude)
        self.merged = layer.low_rank.merged
        self.seen: list[bytes] | None = None
        structure.rows, structure.columns = layer.weight.shape
        structure.kind = KINDS["Float32"]

    def refresh(self, functions: ctypes.CDLL) -> None:
        """Merges weight and adapter of the layer, if they have changed."""
        seen = [_sample(held.asnumpy()) for held in (self.weight_held, *self.factors)]
        if seen != self.seen:
            self.weight = np.ascontiguousarray(self.merged(), np.float32)
            self.structure.weight, self.seen = address(self.weight), seen


class Packed:
    """The packed integer weight of a layer. Where nothing else reads the original, the layer keeps only this form."""

    def __init__(self, structure: LinearStruct, layer: LinearWeights, *, is_fixed: bool) -> None:
        assert layer.scale is not None
        self.structure, self.is_fixed = structure, is_fixed
        self.held: tuple[Any, Any] = (layer.weight, layer.scale)
        self.seen: list[bytes] | None = None
        self._rows: tuple[np.ndarray, np.ndarray] | None = None
        structure.rows, structure.columns = layer.weight.shape[0], layer.columns
        structure.kind, structure.group = kind_of(layer.weight.dtype), layer.group
        structure.layout = LAYOUTS["panels"]

    @property
    def nbytes(self) -> int:
        """Bytes that it needs from an arena."""
        given, is_in_panels = self._given_now()
        return 0 if is_in_panels else sum(padded(one.nbytes) for one in given)

    def take(self, arena: Arena) -> None:
        """Takes its memory from an arena."""
        (weight, scale), is_in_panels = self._given_now()
        if not is_in_panels:
            self.packed = (arena.take(weight.shape, weight.dtype), arena.take(scale.shape, np.float16))

    def refresh(self, functions: ctypes.CDLL) -> None:
        """Packs the weight of the layer, if it has changed."""
        (weight, scale), is_in_panels = self._given_now()
        samples = None if self.is_fixed else [_sample(array) for array in (weight, scale)]
        if self.seen is not None and samples == self.seen:
            return
        if is_in_panels:
            self.packed = (weight, scale)
        else:
            rows = LinearStruct.from_buffer_copy(self.structure)
            rows.weight, rows.scale, rows.layout = address(weight), address(scale), LAYOUTS["rows"]
            functions.glm_pack(ctypes.byref(rows), *map(address, self.packed))
        self.use()
        self.seen = samples

    def compute_from_rows(self) -> None:
        """Points at the weight in rows, until `use`: kernels then pack a panel whenever they read one."""
        given, is_in_panels = self._given_now()
        if is_in_panels:
            self.packed = given
            self.use()
            return
        self._rows = given  # kept: another network may replace what is held
        self.structure.weight, self.structure.scale = map(address, self._rows)
        self.structure.layout = LAYOUTS["rows"]
        self._given = LinearStruct.from_buffer_copy(self.structure)

    def pack_beside(self, functions: ctypes.CDLL) -> None:
        """Packs what is computed from, by this thread alone: a panel at a time takes no other."""
        if self._rows is None:
            return
        some = LinearStruct.from_buffer_copy(self._given)
        for begin in range(0, self._given.rows, PANEL):
            end = min(begin + PANEL, self._given.rows)
            some.rows = end - begin
            some.weight, some.scale = (address(part[begin:end]) for part in self._rows)
            functions.glm_pack(ctypes.byref(some), *(address(part[begin:end]) for part in self.packed))
        for one in self.held:
            one.let_go()  # what is mapped can be read again, should a step still be at it

    def use(self) -> None:
        """Points at the packed weight."""
        self.structure.weight, self.structure.scale = map(address, self.packed)
        self.structure.layout = LAYOUTS["panels"]
        self._rows = None
        if self.is_fixed:
            self._give_back()

    def _given_now(self) -> tuple[tuple[np.ndarray, np.ndarray], bool]:
        """Weight and scale as they are held, and whether both are packed."""
        with _REPLACING:
            (weight, is_in_panels), (scale, _) = map(kept, self.held)
        return (weight, scale), is_in_panels

    def _give_back(self) -> None:
        """Keeps the packed form only, where nothing else reads the original; drops pages that a file can give again."""
        with _REPLACING:
            if kept(self.held[0])[1]:
                return
            is_own = all(one.is_own for one in self.held)
            if is_own:
                for one, packed in zip(self.held, self.packed, strict=True):
                    one.keep(packed, is_in_panels=True)
        if not is_own:
            for one in self.held:
                one.let_go()


class Whole:
    """The packed weights of a W8A8 layer. If the original is mapped from its file, its memory is freed."""

    def __init__(self, structure: LinearStruct, layer: LinearWeights, *, is_fixed: bool) -> None:
        assert layer.whole is not None
        self.is_fixed = is_fixed
        self.held: Any = layer.weight
        self.structure, self.whole = structure, layer.whole
        self.seen: list[bytes] | None = None
        structure.layout = LAYOUTS["panels"]
        structure.rows, structure.columns = layer.weight.shape
        structure.kind, structure.group = W8A8, layer.weight.shape[1]
        structure.input_scale, structure.input_offset = self.whole.input

    @property
    def nbytes(self) -> int:
        """Bytes that it needs from an arena."""
        return padded(self.structure.rows * self.structure.columns)

    def take(self, arena: Arena) -> None:
        """Takes its memory from an arena."""
        self.weight = arena.take((self.structure.rows, self.structure.columns), np.uint8)
        self.structure.weight = address(self.weight)

    def refresh(self, functions: ctypes.CDLL) -> None:
        """Packs the weight of the layer, if it has changed."""
        given = [held.asnumpy() for held in (self.held, self.whole.deq_scale, self.whole.quant_bias)]
        samples = [_sample(array) for array in given]
        if samples == self.seen:
            return
        weight, self.scale, self.bias = given[0], given[1].copy(), given[2].copy()
        self.structure.row_scale, self.structure.row_bias = address(self.scale), address(self.bias)
        rows = LinearStruct.from_buffer_copy(self.structure)
        rows.weight, rows.layout = address(weight), LAYOUTS["rows"]
        functions.glm_pack(ctypes.byref(rows), address(self.weight), None)
        self.seen = samples
        if self.is_fixed:
            self.held.let_go()


def _sample(array: np.ndarray) -> bytes:
    """Some numbers of an array, to see whether it has changed."""
    return array.reshape(-1)[:: max(1, array.size // _SAMPLES)].tobytes()


class Packing:
    """A thread that packs the weights of a large network while it computes from rows.

    A gigabyte of memory that is new may take seconds, and the first tokens need none of it. A step of the network is
    computed `with` this, so that pointers change between steps alone; packing begins after the first one.
    """

    def __init__(self, weights: Sequence[Packed], functions: ctypes.CDLL, arena: Arena) -> None:
        self._step, self._begins = threading.Lock(), threading.Event()
        self._left = deque(weights)
        self._ready: deque[Packed] = deque()
        self._functions, self._arena, self._is_ended = functions, arena, threading.Event()
        for packed in weights:
            packed.compute_from_rows()
        self._thread: threading.Thread | None = None
        _PACKINGS.add(self)
        self._start()

    def __enter__(self) -> None:
        self._step.acquire()
        self._start()

    def __exit__(self, *_: object) -> None:
        self._step.release()
        self._begins.set()

    @property
    def is_done(self) -> bool:
        """Whether no pointer changes any more."""
        return not self._left and not self._ready

    def is_forked(self) -> None:
        """In the child of a fork there is neither the thread nor whatever that held."""
        self._step, self._begins, self._thread = threading.Lock(), threading.Event(), None

    def end(self) -> None:
        """The network is no longer used."""
        self._is_ended.set()
        self._begins.set()

    def wait(self) -> None:
        """Returns when all is packed; never called in a step."""
        with self:
            assert self._thread is not None
        self._thread.join()

    def _start(self) -> None:
        """Starts the thread where there is none: at first, and in a process that was forked meanwhile."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="packing", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        self._begins.wait()
        while not self.is_done and not self._is_ended.is_set():
            if self._left:
                if self._is_packed_beside(self._left[0]):
                    self._ready.append(self._left[0])
                self._left.popleft()  # after that: a process that is forked meanwhile does it again
            if self._ready and self._step.acquire(blocking=not self._left):  # a long step is no reason to stop packing
                try:
                    while self._ready:
                        self._ready[0].use()
                        self._ready.popleft()  # after that: `is_done` says that pointers stay
                finally:
                    self._step.release()
        if not self._is_ended.is_set():
            self._arena.settle()

    def _is_packed_beside(self, packed: Packed) -> bool:
        try:
            packed.pack_beside(self._functions)
        except Exception as error:  # noqa: BLE001 - whatever it is, the layer computes from its rows
            logger.warning("a layer is not packed and computes more slowly: %s: %s", type(error).__name__, error)
            return False
        return True


_PACKINGS: weakref.WeakSet[Packing] = weakref.WeakSet()


def _begin_again() -> None:
    """In the child of a fork."""
    _REPLACING.release()
    for packing in list(_PACKINGS):
        packing.is_forked()


if hasattr(os, "register_at_fork"):  # a child finds nothing half replaced
    os.register_at_fork(before=_REPLACING.acquire, after_in_parent=_REPLACING.release, after_in_child=_begin_again)
