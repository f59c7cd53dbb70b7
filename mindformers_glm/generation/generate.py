"""Generation for a list of prompts, and `model.generate` with the conventions of MindFormers."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mindformers_glm.errors import ConfigError, GenerationError, shorten
from mindformers_glm.generation.config import GenerationConfig, make_config
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.interface import Generation, Network, Token
from mindformers_glm.generation.kernel_network import KernelNetwork, obstacles
from mindformers_glm.generation.ticket import Item
from mindformers_glm.log import log_once, logger
from mindformers_glm.ops.kernels import library
from mindformers_glm.registry import SERVICES
from mindformers_glm.signals import terminated_as_interrupted

if TYPE_CHECKING:
    from mindspore import nn

BACKENDS = ("kernels", "graph")
OnToken = Callable[[int, Token], None]
# Arguments of generate in transformers that are accepted, and why they have no effect here.
_ELSEWHERE = {
    "token_type_ids": "this network has one type of token",
    "return_dict_in_generate": "the result is always a list of arrays; engine_of(model) returns more",
    "output_scores": "engine_of(model) returns log-probabilities with output_logprobs",
    "synced_gpus": "one process generates",
}


class MindSporeEngine(Engine):
    """The engine for a MindSpore model on this process's device. Options are those of Engine and of KernelNetwork:
    the type of the KV cache and how many tokens it may hold.

    `backend` is `kernels`, `graph` (MindSpore's operators) or None: the faster one that can compute this model.

    Raises:
        ConfigError: the backend or an option of the cache is unknown, or this model cannot have it here.
    """

    def __init__(
        self,
        model: nn.Cell,
        *,
        backend: str | None = None,
        cache_dtype: str | None = None,
        cache_tokens: int | None = None,
        **options: Any,
    ) -> None:
        defaults = GenerationConfig.from_model(model.config)
        super().__init__(_network(model, backend, cache_dtype, cache_tokens), defaults=defaults, **options)
        self.parameters = _identity(model)


def attach(engine: Engine, adapted: nn.Cell) -> int | None:
    """Adds the adapter of another network over the same base weights; returns the number by which requests choose it.

    None where the engine's network cannot compute several adapters in one batch, or this adapter is no LoRA: it then
    needs an engine of its own.
    """
    if not isinstance(engine.network, KernelNetwork) or adapted.prefix_encoder is not None or obstacles(adapted):
        return None
    return engine.add_adapter(adapted)


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], config: GenerationConfig, *, on_token: OnToken | None = None
) -> list[Generation]:
    """The results of each prompt in order, `num_return_sequences` for each.

    `on_token(prompt number, token)` is called in the caller's thread as tokens come, in any order of sequences. If it
    raises, or on Ctrl-C, all requests are cancelled.

    Raises:
        GenerationError: a prompt is empty, too long, or has ids beyond the vocabulary; before anything is computed.
    """
    if not config.greedy:
        config = config.updated(seed=config.drawn_seed())  # one for the whole call
    with terminated_as_interrupted():  # what MindSpore turns Ctrl-C into
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
    """Passes tokens on until so many requests are over."""
    while waiting:
        row, item = arrived.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            waiting -= 1
        elif on_token is not None:
            on_token(row, item)


def engine_of(model: nn.Cell) -> Engine:
    """The engine of a model: made at the first call, and again after adapters were attached."""
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
    position_ids: Any = None,
    **settings: Any,
) -> list[np.ndarray]:
    """Prompt and new ids of each sequence, as int32 arrays of different lengths: `model.generate`.

    `input_ids`: one sequence or several, as lists of any lengths, an array or a Tensor. Pad ids at both ends of a
    sequence are removed as padding, unless `attention_mask` says which ids count. `position_ids` as a tokenizer returns
    them are accepted: they must count the ids that are not padding. `settings` are fields of GenerationConfig
    (`use_cache` is the name of `use_past` in transformers); they override `generation_config`, which overrides the
    defaults in the model's configuration.

    Raises:
        GenerationError: a setting or prompt is wrong, or there is a streamer for several sequences.
    """
    if "use_cache" in settings:
        settings.setdefault("use_past", settings.pop("use_cache"))
    for name in [name for name in settings if name in _ELSEWHERE]:
        log_once(f"generate: {name} has no effect: {_ELSEWHERE[name]}")
        del settings[name]
    defaults = GenerationConfig.from_model(model.config)
    config = make_config(generation_config, defaults, seed=seed, logits_processor=logits_processor, **settings)
    prompts = read_prompts(
        input_ids, pad_id=config.pad_token_id, attention_mask=attention_mask, position_ids=position_ids
    )
    rows = generate_rows(engine_of(model), prompts, config, streamer=streamer)
    return [np.asarray(row, np.int32) for row in rows]


def generate_rows(
    engine: Engine, prompts: list[list[int]], config: GenerationConfig, *, streamer: Any = None
) -> list[list[int]]:
    """Prompt and new ids of each result, with the log line of MindFormers; `streamer` gets the one sequence.

    Raises:
        GenerationError: a prompt is wrong, or there is a streamer for several sequences.
    """
    each = config.num_return_sequences
    if streamer is not None and (len(prompts) * each > 1 or config.num_beams > 1):
        raise GenerationError("streamer: it shows one sequence as it grows; give one prompt, one result and no beams")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise GenerationError(f"streamer: got {shorten(streamer)}. Give an object with put and end, as TextStreamer")
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
    """Logs the line that ends every call of `model.generate`."""
    logger.info(
        "total time: %s s; generated tokens: %s tokens; generate speed: %s tokens/s",
        seconds,
        tokens,
        tokens / seconds if seconds else 0.0,
    )


def read_prompts(
    input_ids: Any, *, pad_id: int, attention_mask: Any = None, position_ids: Any = None
) -> list[list[int]]:
    """Sequences of ids without padding, from one sequence or several in any usual form.

    Raises:
        GenerationError: these are not ids, a sequence is nothing but padding, or the mask or the positions do not
            belong to these ids.
    """
    rows = _rows(input_ids, "input_ids")
    if attention_mask is not None:
        seen = [[bool(item) for item in mask] for mask in _like(attention_mask, rows, "attention_mask")]
    else:
        seen = [_inside(row, pad_id) for row in rows]
    for number, mask in enumerate(seen):
        if not any(mask):
            raise GenerationError(f"input_ids: row {number} is empty, or nothing but padding (id {pad_id})")
    if position_ids is not None:
        for number, (places, mask) in enumerate(zip(_like(position_ids, rows, "position_ids"), seen, strict=True)):
            if _only(places, mask) != list(range(sum(mask))):
                raise GenerationError(f"position_ids: row {number} does not count its ids from 0. Leave them out")
    return [_only(row, mask) for row, mask in zip(rows, seen, strict=True)]


def _inside(row: list[int], pad_id: int) -> list[bool]:
    """True from the first to the last id that is not `pad_id`: the part of a sequence that is not padding."""
    used = [place for place, token in enumerate(row) if token != pad_id]
    return [bool(used) and used[0] <= place <= used[-1] for place in range(len(row))]


def _only(row: list[int], mask: list[bool]) -> list[int]:
    return [item for item, counts in zip(row, mask, strict=True) if counts]


def _like(value: Any, rows: list[list[int]], name: str) -> list[list[int]]:
    """Numbers that belong to the ids (a mask, positions), in the shape of the ids."""
    found = _rows(value, name)
    if [len(row) for row in found] != [len(row) for row in rows]:
        raise GenerationError(f"{name}: its shape differs from that of input_ids")
    return found


def _rows(value: Any, name: str) -> list[list[int]]:
    value = value.asnumpy() if hasattr(value, "asnumpy") else value  # a Tensor of MindSpore
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not len(value):
        raise GenerationError(f"{name}: got {shorten(value)}. Give one sequence of ids, or a list of them")
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in value]
    if not any(isinstance(row, (list, tuple)) for row in rows):
        rows = [rows]
    for row in rows:
        if not isinstance(row, (list, tuple)) or not all(isinstance(item, (int, np.integer)) for item in row):
            raise GenerationError(f"{name}: got {shorten(row)}. Give each sequence as a list of whole numbers")
    return [[int(item) for item in row] for row in rows]


def _network(model: nn.Cell, backend: str | None, cache_dtype: str | None, cache_tokens: int | None) -> Network:
    """The network of the fastest backend for this model on this device, together with the ranks that hold its rest."""
    from mindformers_glm.generation.led import LeadingNetwork  # noqa: PLC0415 - they need MindSpore
    from mindformers_glm.generation.network import MindSporeNetwork  # noqa: PLC0415

    if backend not in (None, *BACKENDS):
        raise ConfigError("backend", backend, f"Use one of {', '.join(BACKENDS)}.")
    axis = getattr(model, "led_over", None)
    if axis is not None:
        found = ["it is divided among processes"]
    elif getattr(model, "pipe", None) is not None:
        found = ["it is a stage of a pipeline"]
    elif backend == "graph":
        found = ["backend is graph"]
    elif library.library() is None:
        found = ["there are no kernels for this device"]
    else:
        found = obstacles(model)
    if not found:
        made = KernelNetwork(model, cache_dtype=cache_dtype, cache_tokens=cache_tokens)
        return cast(Network, made)  # it takes only caches that it has made
    reasons = "; ".join(found[:3])
    if backend == "kernels":
        raise ConfigError("backend", backend, f"The kernels cannot run this: {reasons}.")
    for key, value in (("cache_dtype", cache_dtype), ("cache_tokens", cache_tokens)):
        if value is not None:
            raise ConfigError(key, value, f"Only the kernels have such a cache, and they cannot run this: {reasons}.")
    if axis is not None:
        return LeadingNetwork(MindSporeNetwork(model), axis)
    if library.library() is not None and backend is None and getattr(model, "pipe", None) is None:
        log_once(f"MindSpore's operators generate, several times slower than the kernels would: {reasons}")
    return MindSporeNetwork(model)


def _identity(model: nn.Cell) -> tuple[int, ...]:
    return tuple(id(parameter) for parameter in model.get_parameters())


_engines: weakref.WeakKeyDictionary[Any, MindSporeEngine] = weakref.WeakKeyDictionary()
_making = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)
SERVICES["generate"] = generate_arrays
