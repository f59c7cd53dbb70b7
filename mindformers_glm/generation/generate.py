"""Generating for a list of prompts, and `model.generate` with the conventions MindFormers users know."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindformers_glm.errors import GenerationError, shorten
from mindformers_glm.generation.config import GenerationConfig, make_config
from mindformers_glm.generation.engine import Engine, Network
from mindformers_glm.generation.fused import FusedNetwork, obstacles
from mindformers_glm.generation.network import MindSporeNetwork
from mindformers_glm.generation.search import Generation, Token
from mindformers_glm.generation.ticket import Item
from mindformers_glm.log import log_once, logger
from mindformers_glm.ops.kernels import library
from mindformers_glm.registry import SERVICES
from mindformers_glm.signals import terminated_as_interrupted

OnToken = Callable[[int, Token], None]


class MindSporeEngine(Engine):
    """The engine over a MindSpore model on this process's device. Options as for Engine."""

    def __init__(self, model: nn.Cell, **options: Any) -> None:
        defaults = GenerationConfig.from_model(model.config)
        super().__init__(_network(model), defaults=defaults, **options)
        self.parameters = _identity(model)


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], config: GenerationConfig, *, on_token: OnToken | None = None
) -> list[Generation]:
    """The results of each prompt in order, `num_return_sequences` for each.

    `on_token(prompt number, token)` is called in the caller's thread as tokens come, rows in any order. When it
    raises, or on Ctrl-C, everything is cancelled.

    Raises:
        GenerationError: a prompt that is empty, does not fit, or holds ids beyond the vocabulary; before any work.
    """
    if not config.greedy:
        config = config.updated(seed=config.drawn_seed())  # one for the whole call
    with terminated_as_interrupted():  # MindSpore makes that of Ctrl-C
        arrived: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
        tickets = engine.submit_all(prompts, config, listener=lambda row, item: arrived.put((row, item)))
        try:
            _wait(len(tickets), arrived, on_token)
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise
    return [result for ticket in tickets for result in ticket.found]


def _wait(waiting: int, arrived: queue.SimpleQueue[tuple[int, Item]], on_token: OnToken | None) -> None:
    """Hands on what comes until so many requests are over."""
    while waiting:
        row, item = arrived.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            waiting -= 1
        elif on_token is not None:
            on_token(row, item)


def engine_of(model: nn.Cell) -> Engine:
    """The model's engine, made at the first call and again when adapters were attached since."""
    with _making:
        engine = _engines.get(model)
        if engine is None or engine.parameters != _identity(model):
            engine = _engines[model] = MindSporeEngine(model)
    return engine


def generate_arrays(
    model: nn.Cell,
    input_ids: Any,
    generation_config: GenerationConfig | dict | None = None,
    logits_processor: Any = None,
    streamer: Any = None,
    seed: int | None = None,
    attention_mask: Any = None,
    **settings: Any,
) -> list[np.ndarray]:
    """Prompt and new ids of each row, as int32 arrays of their own length: `model.generate`.

    `input_ids`: one row or several, as lists of any lengths, an array or a Tensor. Pad ids at the end of a row are
    padding and cut off, unless `attention_mask` says which ids count. `settings` are fields of GenerationConfig and
    come before `generation_config`, which comes before the defaults in the model's configuration.

    Raises:
        GenerationError: a setting or prompt that cannot be honoured, or a streamer for several rows.
    """
    defaults = GenerationConfig.from_model(model.config)
    config = make_config(generation_config, defaults, seed=seed, logits_processor=logits_processor, **settings)
    prompts = read_prompts(input_ids, pad_id=config.pad_token_id, attention_mask=attention_mask)
    rows = generate_rows(engine_of(model), prompts, config, streamer=streamer)
    return [np.asarray(row, np.int32) for row in rows]


def generate_rows(
    engine: Engine, prompts: list[list[int]], config: GenerationConfig, *, streamer: Any = None
) -> list[list[int]]:
    """Prompt and new ids of each result, with the log line of MindFormers; `streamer` shows the one row.

    Raises:
        GenerationError: a prompt that cannot be honoured, or a streamer for several rows.
    """
    each = config.num_return_sequences
    if streamer is not None and (len(prompts) * each > 1 or config.num_beams > 1):
        raise GenerationError("streamer: it shows one row as it grows; give one prompt, one result and no beams")
    begin = time.perf_counter()
    if streamer is None:
        results = generate(engine, prompts, config)
    else:
        streamer.put(prompts[0])
        try:
            results = generate(engine, prompts, config, on_token=lambda row, token: streamer.put(token.choice.token))
        finally:
            streamer.end()
    log_speed(time.perf_counter() - begin, sum(len(result.ids) for result in results))
    return [[*prompts[place // each], *result.ids] for place, result in enumerate(results)]


def log_speed(seconds: float, tokens: int) -> None:
    """The line that closes every call of `model.generate`."""
    logger.info(
        "total time: %s s; generated tokens: %s tokens; generate speed: %s tokens/s",
        seconds,
        tokens,
        tokens / seconds if seconds else 0.0,
    )


def read_prompts(input_ids: Any, *, pad_id: int, attention_mask: Any = None) -> list[list[int]]:
    """Rows of ids without padding, from one row or several in any usual form.

    Raises:
        GenerationError: something else than ids, or a row that is nothing but padding.
    """
    rows = _rows(input_ids, "input_ids")
    if attention_mask is not None:
        masks = _rows(attention_mask, "attention_mask")
        if [len(mask) for mask in masks] != [len(row) for row in rows]:
            raise GenerationError("attention_mask: its shape differs from that of input_ids")
        rows = [[token for token, seen in zip(*pair, strict=True) if seen] for pair in zip(rows, masks, strict=True)]
    else:
        rows = [row[: _used(row, pad_id)] for row in rows]
    for number, row in enumerate(rows):
        if not row:
            raise GenerationError(f"input_ids: row {number} is empty, or nothing but padding (id {pad_id})")
    return rows


def _used(row: list[int], pad_id: int) -> int:
    return next((size for size in range(len(row), 0, -1) if row[size - 1] != pad_id), 0)


def _rows(value: Any, name: str) -> list[list[int]]:
    value = value.asnumpy() if isinstance(value, Tensor) else value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not len(value):
        raise GenerationError(f"{name}: got {shorten(value)}. Give a row of ids or several")
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in value]
    if not any(isinstance(row, (list, tuple)) for row in rows):
        rows = [rows]
    for row in rows:
        if not isinstance(row, (list, tuple)) or not all(isinstance(item, (int, np.integer)) for item in row):
            raise GenerationError(f"{name}: got {shorten(row)}. A row is a list of whole numbers")
    return [[int(item) for item in row] for row in rows]


def _network(model: nn.Cell) -> Network:
    """The quickest way to compute this model on this device."""
    if library.library() is None:
        return MindSporeNetwork(model)
    found = obstacles(model)
    if found:
        log_once(f"MindSpore's operators generate, several times slower than the kernels would: {'; '.join(found[:3])}")
        return MindSporeNetwork(model)
    return FusedNetwork(model)


def _identity(model: nn.Cell) -> tuple[int, ...]:
    return tuple(id(parameter) for parameter in model.get_parameters())


_engines: weakref.WeakKeyDictionary[nn.Cell, MindSporeEngine] = weakref.WeakKeyDictionary()
_making = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)
SERVICES["generate"] = generate_arrays
