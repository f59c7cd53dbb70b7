"""Prompts and single tokens through the network that generation uses, and through its engine."""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import numpy as np

from mindformers_glm.assembly.configuration import changed
from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.assembly.random_held import random_network
from mindformers_glm.benchmark.machine import Machine
from mindformers_glm.benchmark.settings import FLOATS, Settings
from mindformers_glm.benchmark.timing import repeated, seconds, spread
from mindformers_glm.benchmark.work import decode_bytes, parameter_count, prefill_flop, weight_bytes
from mindformers_glm.generation import GenerationConfig, generate
from mindformers_glm.generation.cache import KVCache
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.generation.paged_cache import PagedCache
from mindformers_glm.ops.kernels.library import library
from mindformers_glm.ops.w8a8 import Layer
from mindformers_glm.quantization.interface import Inputs, scheme_of

_WARM_TOKENS = 64
_WARM_STEPS = 3


_INPUTS = Inputs(-8.0, 8.0)  # between which W8A8 layers are quantised


class _Running:
    """A network with random weights, and the engine that runs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        options = {"chunk": settings.chunk, "max_num_seqs": max(16, settings.batch)}
        self.model: Any
        self.engine: Engine
        self.model, self.engine = (_by_formulas if library() is None else _by_kernels)(settings, options)
        self.network: Any = self.engine.network
        random = np.random.default_rng(0)
        self.ids = random.integers(3, settings.shape.vocab, (settings.batch, settings.length)).astype(np.int32)

    def prefill(self, ids: np.ndarray) -> tuple[KVCache, np.ndarray]:
        """A cache that holds ids (B, T), taken in by the engine's chunks, and the logits (B, V) after them."""
        rows, tokens = ids.shape
        cache, logits = self.network.new_cache(rows), np.zeros((0, 0), np.float32)
        for begin in range(0, tokens, self.settings.chunk):
            piece = ids[:, begin : begin + self.settings.chunk]
            width = piece.shape[1]
            is_last = begin + width == tokens
            wanted = np.arange(1, rows + 1, dtype=np.int32) * width - 1 if is_last else None
            logits = self.network.forward(piece, np.full(rows, width, np.int32), cache, wanted)
        return cache, logits

    def settle(self) -> None:
        """Waits until the weights of a large network are packed, which is done beside its first steps."""
        if isinstance(self.network, KernelNetwork):
            self.network.settle()

    def about(self) -> dict[str, Any]:
        """What the network is."""
        return {
            "parameters": parameter_count(self.settings),
            "weight_bytes": weight_bytes(self.model),
            "network": type(self.network).__name__,
        }


class Prefill(_Running):
    """`length` tokens of every sequence into empty caches."""

    def measure(self) -> dict[str, Any]:
        """The median prompt after a short one and a whole one."""
        first = seconds(lambda: self.prefill(self.ids[:, :_WARM_TOKENS]))
        again = seconds(lambda: self.prefill(self.ids[:, :_WARM_TOKENS]))
        self.settle()
        self.prefill(self.ids)
        times = repeated(lambda: self.prefill(self.ids), self.settings.steps)
        usual, tokens = statistics.median(times), self.ids.size
        return {
            "tokens_per_s": tokens / usual,
            "ms_per_token": usual * 1e3 / tokens,
            **spread(times),
            "compile_s": max(0.0, first - again),
            **self.about(),
            "flop": prefill_flop(self.settings),
        }

    def shares(self, figures: dict[str, Any], machine: Machine) -> dict[str, float]:
        """Part of the machine's float32 matrix speed."""
        return {"matrix_share": figures["flop"] / (figures["ms_median"] / 1e3) / machine.matrix_flop_per_s}


class Decode(_Running):
    """One token for every sequence at a time, after `length` tokens of context."""

    def measure(self) -> dict[str, Any]:
        """All steps together, the most probable token found each time, and the same through the engine."""
        batch, steps = self.settings.batch, self.settings.steps
        first, again = repeated(lambda: self.step(self.prefill(self.ids[:1, :_WARM_TOKENS])[0], self.ids[:1, 0]), 2)
        self.settle()
        cache = self.filled()
        for _ in range(_WARM_STEPS):
            self.step(cache, self.ids[:, 0])
        tokens = self.ids[:, -1]
        times = []
        for _ in range(steps):
            begin = perf_counter()
            tokens = self.step(cache, tokens)
            times.append(perf_counter() - begin)
        return {
            "tokens_per_s": batch * steps / sum(times),
            "ms_per_token": sum(times) * 1e3 / (batch * steps),
            **spread(times),
            "engine_tokens_per_s": self.through_engine(),
            "compile_s": max(0.0, first - again),
            **self.about(),
            "cache_bytes": cache.nbytes,
            "bytes_per_step": decode_bytes(self.model, self.settings, cache_bytes_per_token=self.token_bytes(cache)),
        }

    def step(self, cache: KVCache, tokens: np.ndarray) -> np.ndarray:
        """The next token (B,) after one more token of each sequence."""
        rows = len(tokens)
        ones, places = np.ones(rows, np.int32), np.arange(rows, dtype=np.int32)
        return self.network.forward(tokens.reshape(-1, 1), ones, cache, places).argmax(-1)

    def filled(self) -> KVCache:
        """A cache with `length` tokens in each sequence; all are copies of the first, which takes as long to read."""
        one, _ = self.prefill(self.ids[:1])
        cache = self.network.new_cache(self.settings.batch)
        for row in range(self.settings.batch):
            cache.copy_row(row, one, 0)
        if isinstance(cache, PagedCache):
            cache.own_blocks()
        return cache

    def through_engine(self) -> float:
        """Tokens per second that a caller of `generate` gets once every sequence has had its first token."""
        config = GenerationConfig(do_sample=False, max_new_tokens=self.settings.steps + 1)
        arrivals: list[tuple[int, float]] = []
        generate(self.engine, self.ids.tolist(), config, on_token=lambda row, _: arrivals.append((row, perf_counter())))
        firsts = {row: moment for row, moment in reversed(arrivals)}
        begin = max(firsts.values())  # sequences that start early must not count while others still wait
        return sum(moment > begin for _, moment in arrivals) / (arrivals[-1][1] - begin)

    @staticmethod
    def token_bytes(cache: KVCache) -> int:
        """Memory of one token in the cache."""
        return cache.nbytes // (cache.rows * cache.slots)

    def shares(self, figures: dict[str, Any], machine: Machine) -> dict[str, float]:
        """Part of the machine's speed of reading memory."""
        rate = figures["bytes_per_step"] * self.settings.steps / self.total(figures)
        return {"memory_share": rate / machine.memory_bytes_per_s}

    def total(self, figures: dict[str, Any]) -> float:
        """Seconds of all steps."""
        return self.settings.batch * self.settings.steps / figures["tokens_per_s"]


def _by_kernels(settings: Settings, options: dict[str, Any]) -> tuple[Any, Engine]:
    """A network of arrays, computed by the kernels."""
    config, whole = settings.config(), None
    if settings.dtype not in FLOATS:
        scheme = scheme_of(settings.dtype, "--dtype")
        config = changed(config, scheme.network_keys(settings.group()))

        def made(weight: np.ndarray, bias: np.ndarray | None) -> Layer:
            return scheme.quantise(weight, group_size=0, bias=bias, inputs=_INPUTS)

        whole = None if config.quantization_bit else made
    network = random_network(config, whole=whole)
    return network, held_engine(network, {**options, "cache_dtype": settings.cache_dtype})


def _by_formulas(settings: Settings, options: dict[str, Any]) -> tuple[Any, Engine]:
    """A network of MindSpore, where there are no kernels."""
    from mindformers_glm.generation import MindSporeEngine  # noqa: PLC0415
    from mindformers_glm.models.build import build_model  # noqa: PLC0415 - it needs MindSpore
    from mindformers_glm.quantization import quantize_model  # noqa: PLC0415

    model = build_model(settings.config())
    if settings.dtype not in FLOATS:
        quantize_model(model, scheme=settings.dtype, group_size=settings.group(), inputs=lambda _: _INPUTS)
    model.set_train(False)
    return model, MindSporeEngine(model, **options)
