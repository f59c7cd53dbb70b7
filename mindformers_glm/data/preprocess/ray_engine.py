"""Tokenising over the machines of a Ray cluster: the same files, byte for byte, as with local processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mindformers_glm.data.preprocess.handlers import Encoded, Handler
from mindformers_glm.data.preprocess.run import WorkerLost, encode
from mindformers_glm.data.preprocess.source import Chunk
from mindformers_glm.errors import ConfigError

_AHEAD = 4  # chunks under way for each worker


class RayEngine:
    """Chunks as Ray tasks; the machine that called writes. Each worker needs this package and the tokenizer's file.

    Raises:
        ConfigError: ray is not installed, or no cluster answers at `address`.
    """

    def __init__(self, handler: Handler, *, workers: int, address: str | None = None) -> None:
        try:
            import ray  # noqa: PLC0415 - an extra
        except ImportError as error:
            fix = "Install it: pip install 'mindformers_glm[ray]', or leave --engine out."
            raise ConfigError("--engine", "ray", fix) from error
        self.ray, self.workers = ray, workers
        self.started = not ray.is_initialized()
        if self.started:
            own = {} if address else {"num_cpus": workers, "include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, **own)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError("--address", address, f"No Ray cluster answers there ({reason}).") from error
        self.task = ray.remote(max_retries=3)(encode)
        self.handler = ray.put(handler)

    def map(self, work: Iterator[Chunk]) -> Iterator[dict[str, Encoded]]:
        """See Engine."""
        waiting: deque = deque()
        try:
            for chunk in work:
                waiting.append(self.task.remote(self.handler, chunk))
                if len(waiting) >= self.workers * _AHEAD:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.ObjectLostError) as error:
            fix = "Look at the cluster, and start the same command again: it goes on where it was"
            raise WorkerLost("preprocess", "a Ray worker was lost", fix) from error

    def close(self) -> None:
        """See Engine."""
        if self.started:
            self.ray.shutdown()

    def _result(self, reference: object) -> dict[str, Encoded]:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
