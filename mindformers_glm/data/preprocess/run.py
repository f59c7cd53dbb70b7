"""Tokenises a corpus into pairs: chunks go to processes and come back in order; a killed run goes on where it was.

Memory does not depend on the corpus: as many chunks are under way as keep the processes busy, the written part lies on
the disk. A journal beside the output says how many records it holds; it is written after what it counts.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from mindformers_glm.data.indexed.pair import PairWriter, paths_of
from mindformers_glm.data.preprocess.handlers import Encoded, Handler
from mindformers_glm.data.preprocess.source import Chunk, chunks, files_of, parsed
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import claim, release, user_path, write_text
from mindformers_glm.log import logger

_AHEAD = 4  # chunks under way for each process
_COMMIT_SECONDS = 5.0  # how much work a kill can cost


class WorkerLost(DataError):
    """A process that tokenises has died; what was written stays, and the same command goes on from it."""


class Engine(Protocol):
    """Where chunks are tokenised: takes work and gives results in the order of the work."""

    def map(self, work: Iterator[Chunk]) -> Iterator[dict[str, Encoded]]:
        """The handler's outputs for each chunk, in order."""

    def close(self) -> None:
        """Ends what it started."""


@dataclasses.dataclass
class Counts:
    """What a run has done: records read, ids written, seconds, records of an earlier run that it went on from.

    `left_out` counts documents of this run without a sequence: empty, or as long as `seq_length`.
    """

    records: int = 0
    tokens: int = 0
    seconds: float = 0.0
    resumed_at: int = 0
    left_out: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Ids written each second by this run."""
        return self.tokens / max(self.seconds, 1e-9)


class LocalEngine:
    """Processes of this machine; one worker means this process."""

    def __init__(self, handler: Handler, workers: int) -> None:
        self.handler, self.workers = handler, workers
        self.pool = None
        if workers > 1:
            context = multiprocessing.get_context("fork")  # children share the vocabulary's memory
            self.pool = ProcessPoolExecutor(workers, context, initializer=_adopt, initargs=(handler,))

    def map(self, work: Iterator[Chunk]) -> Iterator[dict[str, Encoded]]:
        """See Engine."""
        if self.pool is None:
            for chunk in work:
                yield encode(self.handler, chunk)
            return
        waiting: deque[Future] = deque()
        try:
            for chunk in work:
                waiting.append(self.pool.submit(_encode_in_child, chunk))
                if len(waiting) >= self.workers * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            fix = "Free memory or lower --workers, and start the same command again: it goes on where it was"
            raise WorkerLost("preprocess", "a tokenising process was killed", fix) from error

    def close(self) -> None:
        """See Engine."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def preprocess(
    inputs: str | Path | Sequence[str | Path],
    output_prefix: str | Path,
    handler: Handler,
    *,
    workers: int = 1,
    log_interval: int = 1000,
    overwrite: bool = False,
    engine: Callable[[Handler], Engine] | None = None,
    commit_seconds: float = _COMMIT_SECONDS,
) -> Counts:
    """Writes OUTPUT_PREFIX + each of the handler's outputs as a pair, and returns what was done.

    A run that was killed goes on where it was when it is started again with the same words; with others it starts
    anew. `engine` is where chunks are tokenised (this machine's processes by default).

    Raises:
        DataError: an input cannot be read or a record not used, or the output exists and `overwrite` is False.
        ConfigError: another process is writing this output.
    """
    files = files_of(inputs)
    prefix = user_path(output_prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    lock = prefix.with_name(f".{prefix.name}.preprocess.lock")
    held = claim(lock)
    if held is None:
        raise ConfigError("--output-prefix", str(prefix), "Another process is writing there: wait, or choose another.")
    try:
        job = _Job(files, prefix, handler, overwrite=overwrite)
        if job.is_done:
            job.finish()
            return Counts(records=job.records, resumed_at=job.records)
        made = engine(handler) if engine is not None else LocalEngine(handler, workers)
        try:
            return job.run(made, log_interval, commit_seconds)
        finally:
            made.close()
    finally:
        release(held, lock)


def encode(handler: Handler, chunk: Chunk) -> dict[str, Encoded]:
    """The handler's outputs for a chunk."""
    return handler.encode(chunk.place, list(parsed(chunk)))


class _Job:
    """One output: its writers, and the journal that says how far they are."""

    def __init__(self, files: list[Path], prefix: Path, handler: Handler, *, overwrite: bool) -> None:
        self.files, self.journal = files, prefix.with_name(f".{prefix.name}.preprocess.json")
        self.names = [f"{prefix}{output}" for output in handler.outputs]
        self.chunk_records = handler.chunk_records
        self.identity = {
            "inputs": [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
            "handler": type(handler).__name__,
            "vocabulary": str(getattr(handler.tokenizer, "vocab_file", "")),
            "settings": [
                list(handler.json_keys),
                handler.append_eod,
                handler.seq_length,
                handler.dtype.name,
                handler.pack,
            ],
        }
        old = self._read_journal()
        self.records, self.is_done = old.get("records", 0), old.get("done", False)
        states = old.get("states") or {}
        self.writers = {
            name: PairWriter(name, handler.dtype, overwrite=overwrite or bool(states), resume=states.get(name))
            for name in self.names
            if not (self.is_done and PairWriter.is_finished(name))
        }
        if states:
            logger.info("Going on after %d records of an earlier run", self.records)

    def run(self, engine: Engine, log_interval: int, commit_seconds: float) -> Counts:
        """Works off what is left."""
        counts, begun = Counts(records=self.records, resumed_at=self.records), time.monotonic()
        sizes: deque[int] = deque()
        committed, logged = begun, self.records
        try:
            for outputs in engine.map(self._work(sizes)):
                for name, output in zip(self.names, outputs.values(), strict=True):
                    self.writers[name].add_raw(output.tokens.tobytes(), output.lengths, output.per_document)
                first = next(iter(outputs.values()))
                counts.tokens += len(first.tokens)
                counts.left_out += int((first.per_document == 0).sum())
                self.records += sizes.popleft()
                now = time.monotonic()
                counts.records, counts.seconds = self.records, now - begun
                if log_interval and self.records - logged >= log_interval:
                    logged = self.records
                    rate = (self.records - counts.resumed_at) / max(counts.seconds, 1e-9)
                    logger.info(
                        "Processed %d documents (%.0f docs/s, %.0f tokens/s)", logged, rate, counts.tokens_per_second
                    )
                if now - committed >= commit_seconds:
                    self._commit()
                    committed = time.monotonic()
        except DataError as error:
            if isinstance(error, WorkerLost):
                self._commit()
                self._close()
            else:  # the same record would stop it again
                self.discard()
            raise
        except OSError as error:
            self._close()
            fault = f"nothing more can be written there ({error.strerror})"
            raise DataError(str(self.journal.parent), fault, "Free space, and start the same command again") from error
        except BaseException:
            self._commit()
            self._close()
            raise
        if not self.records:
            self.discard()
            raise DataError(str(self.files[0]), "the input holds no records", "Give a file with documents")
        self._commit(done=True)
        self.finish()
        counts.seconds = time.monotonic() - begun
        return counts

    def finish(self) -> None:
        """Gives every pair its names."""
        for writer in self.writers.values():
            writer.finish()
        self.journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes what was written; old pairs stay."""
        for writer in self.writers.values():
            writer.discard()
        self.journal.unlink(missing_ok=True)

    def _work(self, sizes: deque[int]) -> Iterator[Chunk]:
        for chunk in chunks(self.files, size=self.chunk_records, skip=self.records):
            sizes.append(len(chunk.records))
            yield chunk

    def _commit(self, *, done: bool = False) -> None:
        states = {name: writer.state() for name, writer in self.writers.items()}
        text = json.dumps({"identity": self.identity, "records": self.records, "states": states, "done": done})
        write_text(self.journal, text)

    def _close(self) -> None:
        for writer in self.writers.values():
            writer.close()

    def _read_journal(self) -> dict[str, Any]:
        try:
            old = json.loads(self.journal.read_text(encoding="utf-8"))
            same = old["identity"] == json.loads(json.dumps(self.identity))
            whole = set(old["states"]) <= set(self.names) and isinstance(old["records"], int)
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        if not (same and whole):
            logger.warning("%s: an unfinished run with other inputs or settings; it starts anew", self.journal.name)
            return {}
        return old


_handler: Handler | None = None  # of a child process


def _adopt(handler: Handler) -> None:
    global _handler
    _handler = handler


def _encode_in_child(chunk: Chunk) -> dict[str, Encoded]:
    assert _handler is not None
    return encode(_handler, chunk)


def outputs_of(prefix: str | Path, handler: Handler) -> list[Path]:
    """The files that `preprocess` writes for a handler."""
    return [path for output in handler.outputs for path in paths_of(f"{prefix}{output}")]
