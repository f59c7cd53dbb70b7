"""The engine: prompt ids in, new ids out, for many requests at once (continuous batching). It knows no text, no device.

What a device must offer is a `Network`. One owner thread per engine drives it, and a lock lets one engine at a time
use the device. Requests begin and end between steps: a step is a forward pass over waiting prompts (prefill), or one
token for every sequence that is being decoded, or both.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.generation.beam import BeamSearch
from mindformers_glm.generation.cache import PrefixStore
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.failures import let_go
from mindformers_glm.generation.figures import Figures, figures_of
from mindformers_glm.generation.interface import AdaptedNetwork, Network, Search
from mindformers_glm.generation.lookup import NO_GUESSES
from mindformers_glm.generation.paged_cache import BLOCK
from mindformers_glm.generation.scheduler import Job, Scheduler
from mindformers_glm.generation.scoring import Score, Scorer, score
from mindformers_glm.generation.search import Samples
from mindformers_glm.generation.ticket import Item, Ticket, check_may_wait, owner_threads
from mindformers_glm.log import log_once

IDLE_SECONDS = 2.0
_device = threading.RLock()  # held while a step is computed, and by a thread that forks
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Runs requests over a network.

    At most `max_num_seqs` sequences are decoded at once (each beam of a prompt counts); other requests wait. A prompt
    is computed in pieces of at most `chunk` tokens (chunked prefill): memory grows linearly with its length, and others
    get their tokens in between. With a paged cache a step has at most `max_num_batched_tokens` tokens, decoded ones and
    prompts' together, while sequences are being decoded (16 prompt tokens in any case); None: so many that a step takes
    about three times as long as without prompts. Requests with `reuse_prefix` share a prefix cache of at most
    `prefix_tokens` tokens (None: the model's length). `defaults` are the settings that callers start from.
    `max_rows` is the former name of `max_num_seqs`.

    Raises:
        ConfigError: `max_num_batched_tokens` for a network without a paged cache.
    """

    def __init__(
        self,
        network: Network,
        *,
        defaults: GenerationConfig | None = None,
        max_num_seqs: int = 16,
        chunk: int = 256,
        max_num_batched_tokens: int | None = None,
        prompt_lookup_num_tokens: int | None = None,
        prefix_tokens: int | None = None,
        max_rows: int | None = None,
    ) -> None:
        if max_rows is not None:
            log_once("max_rows is called max_num_seqs now")
            max_num_seqs = max_rows
        self.network, self.max_num_seqs = network, max_num_seqs
        self.checks_guesses = hasattr(network, "guesses_beside")  # whether prompt lookup has an effect
        lookup = prompt_lookup_num_tokens if self.checks_guesses else 0
        self.defaults = (defaults or GenerationConfig()).updated(prompt_lookup_num_tokens=lookup)
        self.vocab_size, self.max_length = network.vocab_size, network.max_length
        if max_num_batched_tokens is not None and not hasattr(network, "blocks"):
            fix = "Only with the kernels do prompts and sequences being decoded share steps: leave it out."
            raise ConfigError("max_num_batched_tokens", max_num_batched_tokens, fix)
        self._chunk, self._step_tokens = chunk, max_num_batched_tokens
        self._prefix_tokens = self.max_length if prefix_tokens is None else prefix_tokens
        self._closed = False
        self._adapters = {0}
        self._begin()
        _engines.add(self)

    def _begin(self) -> None:
        """The state without work and without a thread, as at first and in a forked child."""
        self._scheduler = Scheduler(
            self.network,
            max_num_seqs=self.max_num_seqs,
            chunk=self._chunk,
            prefixes=PrefixStore(self._prefix_tokens),
            step_tokens=self._step_tokens,
        )
        self._lock = threading.Condition()
        self._arrived: deque[Job | _Call] = deque()
        self._owner: threading.Thread | None = None
        self._scoring: tuple[Hashable, Scorer] | None = None

    def submit(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        *,
        index: int = 0,
        reuse_prefix: bool = False,
        adapter: int = 0,
        priority: int = 0,
        listener: Callable[[Item], None] | None = None,
    ) -> Ticket:
        """A ticket that yields tokens as they come; `index` gives each prompt of a call random numbers of its own.

        Waiting requests with the lowest `priority` go first, among equal ones in the order of arrival.

        With `reuse_prefix` the prompt starts from the longest prefix in the prefix cache, and is added to it. `adapter`
        is a number from `add_adapter`; requests with different adapters share batches.

        Raises:
            GenerationError: the prompt is empty, too long, or has ids beyond the vocabulary; there are too many
                sequences, or there is no such adapter.
        """
        known = {"reuse_prefix": reuse_prefix, "adapter": adapter, "priority": priority}
        job = self._job(prompt, config, index, listener, **known)
        self._hand_over(job)
        return job.ticket

    def submit_all(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        *,
        listener: Callable[[int, Item], None] | None = None,
    ) -> list[Ticket]:
        """A ticket for each prompt. They arrive together, so that equal calls always make equal batches.

        `listener` gets the prompt's number with each item. Raises what `submit` raises, before anything is computed.
        """
        listeners = [None if listener is None else partial(listener, row) for row in range(len(prompts))]
        jobs = [self._job(prompt, config, row, listeners[row]) for row, prompt in enumerate(prompts)]
        self._hand_over(*jobs)
        return [job.ticket for job in jobs]

    def add_adapter(self, adapter: Any) -> int:
        """Adds an adapter to the network (see AdaptedNetwork); returns the number by which requests choose it."""
        number = self._ask(cast(AdaptedNetwork, self.network).add_adapter, adapter)
        with self._lock:
            self._adapters.add(number)
        return number

    def remove_adapter(self, number: int) -> None:
        """Refuses an adapter to new requests; those that have it are finished, then its memory is freed."""
        with self._lock:
            self._adapters.discard(number)
        self._ask(self._scheduler.retire, number)

    def score(
        self,
        context: Sequence[int],
        continuations: Sequence[Sequence[int]],
        *,
        top_logprobs: int = 0,
        adapter: int = 0,
    ) -> list[Score]:
        """The log-probabilities of each continuation after the context, which is computed once.

        Those of the `top_logprobs` best ids at each position are returned too.

        Raises:
            GenerationError: context or continuation is empty, or together they exceed the model's length.
        """
        if not len(context) or not all(len(continuation) for continuation in continuations):
            raise GenerationError("score: context and continuations need at least one id each")
        context = [int(token) for token in context]
        continuations = [[int(token) for token in continuation] for continuation in continuations]
        longest = len(context) + max((len(continuation) for continuation in continuations), default=1) - 1
        if longest > self.max_length:  # the last id of a continuation is scored and not seen
            raise GenerationError(f"score: {longest} tokens and the model's seq_length is {self.max_length}")
        for ids in (context, *continuations):
            self._check_ids(ids, 0)
        return self._ask(self._score, context, continuations, top_logprobs, adapter)

    def score_batch(self, contexts: Sequence[list[int]], wanted: Sequence[list[int]]) -> list[tuple[np.ndarray, int]]:
        """For each context the log-probability of each single id in `wanted`, and the most probable id.

        The contexts of a call are one batch; their common prefix is computed once, and kept for the next call.

        Raises:
            GenerationError: a context is empty, too long, or holds ids beyond the vocabulary.
        """
        for number, (context, ids) in enumerate(zip(contexts, wanted, strict=True)):
            if not context or not ids:
                raise GenerationError("score_batch: each context, and its list in `wanted`, needs at least one id")
            if len(context) > self.max_length:
                raise GenerationError(f"score: {len(context)} tokens and the model's seq_length is {self.max_length}")
            self._check_ids(context, number)
            self._check_ids(ids, number)
        return self._ask(self._score_singles, contexts, wanted)

    def _score(self, context: list[int], continuations: list[list[int]], top: int, adapter: int) -> list[Score]:
        self._check_adapter(adapter)
        return score(self._scheduler, context, continuations, top, adapter)

    def _score_singles(
        self, contexts: Sequence[list[int]], wanted: Sequence[list[int]]
    ) -> list[tuple[np.ndarray, int]]:
        version = self.network.version()
        if self._scoring is None or self._scoring[0] != version:
            self._scoring = (version, Scorer(self._scheduler))
        return self._scoring[1].singles(contexts, wanted)

    @property
    def figures(self) -> Figures:
        """Counts so far: prefix cache hits, guesses, preemptions; and how full the KV cache is."""
        return figures_of(self._scheduler, max_tokens=self.max_num_seqs * self.max_length)

    def forget(self) -> None:
        """Empties the prefix cache, as a change of weights does."""
        self._scoring = None
        self._ask(self._scheduler.prefixes.clear)

    def close(self) -> None:
        """Ends the owner thread; running and waiting requests are cancelled."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            owner = self._owner
        if owner is not None and owner is not threading.current_thread():
            owner.join()

    def _job(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        index: int,
        listener: Callable[[Item], None] | None,
        **known: Any,
    ) -> Job:
        prompt = [int(token) for token in prompt]
        if config.prompt_lookup_num_tokens and not self.checks_guesses:
            log_once(f"prompt_lookup_num_tokens has no effect: {NO_GUESSES}")
            config = config.updated(prompt_lookup_num_tokens=0)
        limits = config.limits(prompt, seq_length=self.max_length, row=index)
        self._check_ids(prompt, index)
        search: Search
        if config.num_beams > 1:
            search = BeamSearch(prompt, config, limits)
        else:
            search = Samples(prompt, config, limits, index=index)
        if search.num_sequences > self.max_num_seqs:
            raise GenerationError(
                f"{search.num_sequences} sequences for one prompt: max_num_seqs is {self.max_num_seqs}"
            )
        ticket = Ticket(search, listener)
        job = Job(prompt, search, ticket, use_past=config.use_past, **{"reuse_prefix": False, **known})
        pool = getattr(self.network, "blocks", None)
        if pool is not None and pool.max_blocks is not None and job.blocks > pool.max_blocks:
            tokens, room = len(prompt) + limits.max_new, pool.max_blocks * BLOCK
            raise GenerationError(
                f"{search.num_sequences} sequences of up to {tokens} tokens: the cache of this engine holds {room} "
                "tokens (cache_tokens)"
            )
        return job

    def _check_ids(self, ids: Sequence[int], row: int) -> None:
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise GenerationError(
                f"prompt {row} holds id {wrong} and the model knows 0 to {self.vocab_size - 1}. "
                "Do tokenizer and model belong together?"
            )

    def _check_adapter(self, adapter: int) -> None:
        if adapter not in self._adapters:
            raise GenerationError(f"adapter {adapter}: there is no adapter of this number (any more)")

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function, called in the owner thread."""
        call = _Call(function, arguments)
        self._hand_over(call)
        try:
            return call.result()
        finally:
            del call, function, arguments, self  # an error's traceback would hold them, and the call holds the error

    def _hand_over(self, *items: Job | _Call) -> None:
        if any(isinstance(item, _Call) for item in items):
            check_may_wait()
        with self._lock:
            if self._closed:
                raise GenerationError("this engine is closed")
            for item in items:
                if isinstance(item, Job):
                    self._check_adapter(item.adapter)
            self._arrived.extend(items)
            if self._owner is None:
                self._owner = threading.Thread(target=self._own, name="generation", daemon=True)
                self._owner.start()
            self._lock.notify_all()

    def _own(self) -> None:
        """The owner thread: lives while there is work, and a little longer."""
        owner_threads.is_one = True
        arrived: list[Job | _Call] = []
        while True:
            with self._lock:
                if not self._arrived and not self._scheduler.has_work and not self._closed:
                    self._lock.wait(IDLE_SECONDS)
                arrived = list(self._arrived)
                self._arrived.clear()
                if self._closed or not (arrived or self._scheduler.has_work):
                    self._owner = None
                    break
            with _device:
                let_go(self._serve(arrived))
            arrived = []
        if self._closed:
            self._abandon(arrived, GenerationError("this engine is closed"))
            let_go(self._scheduler.take_failures())

    def _abandon(self, arrived: list[Job | _Call], error: BaseException) -> None:
        """Ends requests as cancelled, and calls with the error."""
        self._scheduler.abandon([item for item in arrived if isinstance(item, Job)])
        for item in arrived:
            if isinstance(item, _Call):
                item.fail(error)

    def _serve(self, arrived: list[Job | _Call]) -> list[BaseException]:
        """Takes what has arrived and computes one step; returns the errors that ended a request or a call.

        Nothing is raised: without this thread every caller would wait for ever.
        """
        errors: list[BaseException] = []
        try:
            for item in arrived:
                if isinstance(item, _Call):
                    errors += item.run()
                else:
                    self._scheduler.add(item)
            self._scheduler.step()
        except BaseException as error:  # noqa: BLE001
            self._scheduler.abandon([item for item in arrived if isinstance(item, Job)], error)
        return errors + self._scheduler.take_failures()


class _Call:
    """A function that the owner thread runs for a caller that waits."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments, self._done = function, arguments, threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> list[BaseException]:
        """Calls the function; returns the error that it raised, if any."""
        errors: list[BaseException] = []
        try:
            self._value = self._function(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            self._error = error
            errors.append(error)
        self._done.set()
        return errors

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    def result(self) -> Any:
        self._done.wait()
        try:
            if self._error is not None:
                raise self._error
            return self._value
        finally:
            del self


@atexit.register
def _close_all() -> None:
    for engine in list(_engines):
        engine.close()


def _begin_all_again() -> None:
    """In a forked child: its engines have no threads, and running requests belong to its parent."""
    owner_threads.is_one = False
    _device.release()
    for engine in list(_engines):
        engine._begin()


if hasattr(os, "register_at_fork"):  # in the child no step is half done: the locks of the kernels are free
    os.register_at_fork(before=_device.acquire, after_in_parent=_device.release, after_in_child=_begin_all_again)
