"""Tokenising over the machines of a Ray cluster: the same files, byte for byte, as with local processes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from mindformers_glm.data.preprocess.handlers import Encoded, Handler
from mindformers_glm.data.preprocess.run import WorkerLost, encode
from mindformers_glm.data.preprocess.source import Chunk
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger

_AHEAD = 4  # chunks under way for each worker


class RayEngine:
    """Chunks as Ray tasks, spread over the nodes; the machine that called reads and writes.

    Every node needs this package; the tokenizer and the text travel. `workers` says how many tokenise at once; with an
    `address` and one worker, all CPUs of the cluster do. `chunks_of` counts the chunks of each node.

    Raises:
        ConfigError: ray is not installed, or no cluster answers at `address`.
    """

    def __init__(self, handler: Handler, *, workers: int, address: str | None = None) -> None:
        try:
            import ray  # noqa: PLC0415 - an extra
        except ImportError as error:
            fix = "Install it: pip install 'mindformers_glm[ray]', or leave --engine out."
            raise ConfigError("--engine", "ray", fix) from error
        self.ray = ray
        self.started = not ray.is_initialized()
        if self.started:
            own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, **own)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError("--address", address, f"No Ray cluster answers there ({reason}).") from error
        cpus = int(ray.cluster_resources().get("CPU", workers))
        self.workers = cpus if address and workers == 1 else workers
        self.chunks_of: Counter[str] = Counter()
        self.task = ray.remote(max_retries=3, scheduling_strategy="SPREAD")(_encode_there)
        self.handler = ray.put(handler)

    def map(self, work: Iterator[Chunk]) -> Iterator[dict[str, Encoded]]:
        """See Engine."""
        waiting: deque = deque()
        lost = self.ray.exceptions
        try:
            for chunk in work:
                waiting.append(self.task.remote(self.handler, chunk))
                if len(waiting) >= self.workers * _AHEAD:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        except (lost.WorkerCrashedError, lost.ObjectLostError, lost.OutOfMemoryError, lost.NodeDiedError) as error:
            fix = "Look at the cluster, and start the same command again: it goes on where it was"
            raise WorkerLost("preprocess", "a Ray worker was lost", fix) from error

    def close(self) -> None:
        """See Engine."""
        shares = ", ".join(f"{node[:8]}: {count}" for node, count in self.chunks_of.items())
        logger.info("Ray: chunks tokenised by %d nodes (%s)", len(self.chunks_of), shares)
        if self.started:
            self.ray.shutdown()

    def _result(self, reference: Any) -> dict[str, Encoded]:
        try:
            node, outputs = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
        self.chunks_of[node] += 1
        return outputs


def _encode_there(handler: Handler, chunk: Chunk) -> tuple[str, dict[str, Encoded]]:
    import ray  # noqa: PLC0415 - an extra

    return ray.get_runtime_context().get_node_id(), encode(handler, chunk)
