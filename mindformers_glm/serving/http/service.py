"""What is served and how it stands: models by name, whether requests are taken, how many are on their way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from mindformers_glm.errors import shorten
from mindformers_glm.generation.engine import Engine
from mindformers_glm.serving.http.errors import ApiError
from mindformers_glm.serving.http.metrics import Metrics
from mindformers_glm.serving.http.settings import ServerSettings
from mindformers_glm.tokenizers.glm import GLMTokenizer

LoadAdapter = Callable[[str, str], "Served"]  # from a name and a path
State = Literal["loading", "ready", "draining", "failed"]
_COUNTED = {  # counters of /metrics -> fields of generation.figures.Figures
    "vllm:prefix_cache_queries_total": "prefix_tokens_asked",
    "vllm:prefix_cache_hits_total": "prefix_tokens_found",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:spec_decode_num_draft_tokens_total": "guessed_tokens",
    "vllm:spec_decode_num_accepted_tokens_total": "accepted_tokens",
}


@dataclass
class Served:
    """A model under a name: the base, or an adapter on it (`parent` is the base's name, `root` where it came from).

    `adapter` is its number in the base's engine; 0 where it has an engine of its own.
    """

    name: str
    engine: Engine
    tokenizer: GLMTokenizer
    root: str = ""
    parent: str | None = None
    adapter: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    open: int = 0


class Mailbox:
    """Pieces from the engine's thread to the event loop, which is woken once for all that came meanwhile."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[asyncio.Queue[Any], Any]] = deque()
        self._lock = threading.Lock()
        self._is_called = False

    def send(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any], item: Any) -> None:
        """Puts an item into a queue of the loop, from any thread."""
        with self._lock:
            self._waiting.append((queue, item))
            if self._is_called:
                return
            self._is_called = True
        loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            self._is_called = False
            found, self._waiting = self._waiting, deque()
        for queue, item in found:
            queue.put_nowait(item)


class Service:
    """One server's models and figures. Everything but `metrics` belongs to the event loop's thread."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings, self.metrics, self.mailbox = settings, Metrics(), Mailbox()
        self.state: State = "loading"
        self.models: dict[str, Served] = {}
        self.open_answers = 0
        self.load_adapter: LoadAdapter | None = None

    def serve(
        self, base: Served, adapters: list[Served] | None = None, load_adapter: LoadAdapter | None = None
    ) -> None:
        """Takes requests from now on. The base is known under every name of the settings.

        `load_adapter`, where there is one, brings more adapters while it serves.
        """
        self.load_adapter = load_adapter
        self.models = {name: base for name in self.settings.names}
        for served in adapters or []:
            self.models[served.name] = served
        self.state = "ready"

    @property
    def base(self) -> Served:
        """The model without an adapter."""
        return self.models[self.settings.names[0]]

    def model(self, name: str | None) -> Served:
        """The model of this name, the base where none is named.

        Raises:
            ApiError: loading or draining (503), or nothing has this name (404).
        """
        self.check_open()
        if name is None:
            return self.base
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(
                404,
                f"The model {shorten(name)} does not exist. Here are: {known}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    def check_open(self) -> None:
        """Passes when requests are taken.

        Raises:
            ApiError: 503 with when to come again.
        """
        if self.state == "ready":
            return
        why = {"loading": "The model is being loaded", "draining": "The server is shutting down"}
        self.metrics.count("vllm:admission_rejections_total", reason=self.state)
        raise ApiError(503, why.get(self.state, "The server has no model"), code=self.state, retry_after=5)

    @contextmanager
    def admitted(self, served: Served, answers: int) -> Iterator[None]:
        """Inside, so many answers are on their way.

        Raises:
            ApiError: 429, too many are.
        """
        room = served.engine.max_num_seqs + self.settings.max_queue
        if self.open_answers + answers > room:
            self.metrics.count("vllm:admission_rejections_total", reason="queue_full")
            raise ApiError(
                429,
                f"{self.open_answers} answers are on their way or wait, of at most {room}. Try again soon",
                code="queue_full",
                retry_after=1,
            )
        self.open_answers += answers
        served.open += answers
        try:
            yield
        finally:
            self.open_answers -= answers
            served.open -= answers

    def _running(self) -> int:
        """Answers that are computed now: each engine has a place for `max_num_seqs` of them."""
        open_of: dict[int, tuple[int, int]] = {}
        for served in {id(served): served for served in self.models.values()}.values():
            rows, taken = open_of.get(id(served.engine), (served.engine.max_num_seqs, 0))
            open_of[id(served.engine)] = rows, taken + served.open
        return sum(min(pair) for pair in open_of.values())

    def figures(self) -> str:
        """The metrics as text."""
        gauges: list[tuple[str, float, dict[str, str]]] = []
        gauges.append(("glm:server_ready", float(self.state == "ready"), {}))
        if self.models:
            name = self.settings.names[0]
            running = self._running()
            loaded = [key for key, served in self.models.items() if served.parent]
            gauges.append(("vllm:lora_requests_info", len(loaded), {"loaded_lora_adapters": ",".join(loaded)}))
            gauges.append(("vllm:num_requests_running", running, {"model_name": name}))
            engines = {id(served.engine): served.engine for served in self.models.values()}.values()
            all_figures = [(engine, engine.figures) for engine in engines]
            usage = max(figures.cache_usage for _, figures in all_figures)
            gauges.append(("vllm:kv_cache_usage_perc", usage, {"model_name": name}))
            for engine, figures in all_figures:
                for metric, field in _COUNTED.items():
                    self.metrics.follow(metric, engine, getattr(figures, field), model_name=name)
            gauges.append(("vllm:num_requests_waiting", self.open_answers - running, {"model_name": name}))
        return self.metrics.text(gauges)
