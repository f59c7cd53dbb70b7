"""Evaluation of a model on a dataset: by generating and comparing texts, or by its loss."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from mindformers_glm.data.batch import FILLER, Batch, Dataset
from mindformers_glm.errors import GenerationError
from mindformers_glm.evaluation.metrics import PerplexityMetric
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.files import atomic_write
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate, read_prompts
from mindformers_glm.generation.interface import Generation
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import logger
from mindformers_glm.tokenizers.glm import GLMTokenizer

if TYPE_CHECKING:
    from mindspore import Tensor, nn


class TextMetric(Protocol):
    """What compares predicted with expected texts."""

    def update(self, predictions: list[str], labels: list[str]) -> None:
        """Takes one batch."""

    def eval(self) -> dict[str, float]:
        """The scores of all batches."""


class Evaluation(NamedTuple):
    """`scores` of the metric, how much was generated, and where the predictions are, if they were written."""

    scores: dict[str, float]
    num_samples: int
    num_tokens: int
    seconds: float
    predictions: Path | None = None


class _Progress:
    """The line after each batch, as MindFormers words it."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches, self.num_tokens, self.seconds, self.done = num_batches, 0, 0.0, 0

    def add(self, *, samples: int, tokens: int, seconds: float) -> None:
        self.done += 1
        self.num_tokens += tokens
        self.seconds += seconds
        remaining = self.seconds / self.done * (self.num_batches - self.done)
        logger.info(
            "Step[%d/%d], cost time %.4fs, every example cost time is %.4f, generate speed: %.4f tokens/s, "
            "avg speed: %.4f tokens/s, remaining time: %s",
            self.done,
            self.num_batches,
            seconds,
            seconds / samples,
            tokens / seconds,
            self.num_tokens / self.seconds,
            timedelta(seconds=int(remaining)),
        )


def evaluate_generation(
    engine: Engine,
    tokenizer: GLMTokenizer,
    dataset: Dataset,
    metric: TextMetric,
    config: GenerationConfig,
    *,
    predictions: str | Path | None = None,
    log_samples: bool = False,
    share: Share = ALL,
) -> Evaluation:
    """The metric of what the model writes after each prompt of an eval dataset (input_ids: prompts, labels: answers).

    `predictions` names a JSON-lines file with line, prompt, prediction, label and the reason of the end for each
    sample; it appears when the run is over. `log_samples` also logs each pair ("pred is", "label is"). `share` says
    which of the dataset's batches this rank computes; the scores are those of all ranks.

    Raises:
        GenerationError: a prompt that leaves no room for an answer, with its line in the data file.
    """
    progress, done = _Progress(share.count(len(dataset))), {}
    for number, batch in enumerate(dataset.batches(0)):
        settings = share.settings(config)
        if not share.has(number):
            continue
        begin = time.perf_counter()
        batch = without_fillers(batch)
        prompts = read_prompts(batch.input_ids, pad_id=config.pad_token_id)
        results = generate_batch(engine, batch, prompts, settings)
        seconds = time.perf_counter() - begin
        samples = _samples(tokenizer, batch, prompts, results, pad_id=config.pad_token_id)
        for sample in samples if log_samples else ():
            logger.info("pred is:\n %s\n label is:\n %s", sample["prediction"], sample["label"])
        tokens = sum(len(result.ids) for result in results)
        done[number] = (samples, tokens)
        progress.add(samples=len(samples), tokens=tokens, seconds=seconds)
    found = share.joined(done)
    with _lines(predictions) as write:
        for samples, _ in found:
            metric.update([sample["prediction"] for sample in samples], [sample["label"] for sample in samples])
            for sample in samples:
                write(sample)
        scores = metric.eval()
    if predictions is not None:
        logger.info("predictions are saved at: %s", predictions)
    logger.info("...........Evaluate Over!...............")
    path = None if predictions is None else Path(predictions)
    num_samples, num_tokens = sum(len(samples) for samples, _ in found), sum(tokens for _, tokens in found)
    return Evaluation(scores, num_samples, num_tokens, progress.seconds, path)


def without_fillers(batch: Batch) -> Batch:
    """The samples that stand in the data; fillers only even out the ranks."""
    kept = {name: column[batch.rows != FILLER] for name, column in batch._asdict().items() if column is not None}
    return batch._replace(**kept)


def generate_batch(
    engine: Engine, batch: Batch, prompts: list[list[int]], config: GenerationConfig
) -> list[Generation]:
    """One result for each sample; one that does not fit is reported with its line in the data file."""
    for line, prompt in zip(batch.rows, prompts, strict=True):
        try:
            config.limits(prompt, seq_length=engine.max_length)
        except GenerationError as error:
            raise GenerationError(f"line {int(line)} of the evaluation data: {error}") from error
    return generate(engine, prompts, config)


def evaluate_loss(
    model: nn.Cell, dataset: Dataset, metric: PerplexityMetric | None = None, *, share: Share = ALL
) -> Evaluation:
    """Mean loss and perplexity of a model on batches with labels as in training; `share` as for generation."""
    was_training = model.training
    model.set_train(False)
    try:
        return mean_loss(partial(_loss, model), dataset, metric or PerplexityMetric(), share=share)
    finally:
        model.set_train(was_training)


def mean_loss(
    loss_of: Callable[[Batch], float], dataset: Dataset, metric: PerplexityMetric, *, share: Share = ALL
) -> Evaluation:
    """The same from what gives the loss of a batch."""
    begin, done = time.perf_counter(), {}
    for number, batch in enumerate(dataset.batches(0)):
        if not share.has(number):
            continue
        loss = loss_of(batch)
        done[number] = (loss, len(batch.rows), int((batch.labels != IGNORED).sum()))
        logger.info("Step[%d/%d], loss: %.6f", len(done), share.count(len(dataset)), loss)
    found = share.joined(done)
    for loss, _, _ in found:
        metric.update(loss)
    scores = metric.eval()
    logger.info("%s = %s", type(metric).__name__, scores)
    logger.info("...........Evaluate Over!...............")
    num_samples, num_tokens = sum(rows for _, rows, _ in found), sum(tokens for _, _, tokens in found)
    return Evaluation(scores, num_samples, num_tokens, time.perf_counter() - begin)


def _loss(model: nn.Cell, batch: Batch) -> float:
    """The loss of a batch; over the stages of a pipeline, where the model is one of them."""
    import mindspore as ms  # noqa: PLC0415 - of all that is evaluated, this alone needs it
    from mindspore import Tensor  # noqa: PLC0415

    ids, labels, pipe = Tensor(batch.network_input()), Tensor(batch.labels), getattr(model, "pipe", None)
    if pipe is None:
        return float(model(ids, labels).asnumpy())

    def compute(rows: Tensor | None) -> Tensor:
        return model(ids, labels) if rows is None else model(ids, labels, rows)

    config = model.config
    out = pipe.pass_through(compute, (batch.labels.size, config.hidden_size), getattr(ms, config.stream_dtype))
    return float(pipe.from_last(out if pipe.after is None else None, ()).asnumpy())


def _samples(
    tokenizer: GLMTokenizer, batch: Batch, prompts: list[list[int]], results: list[Generation], *, pad_id: int
) -> list[dict[str, Any]]:
    """What is written down of each sample, in the order of the batch."""

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    return [
        {
            "line": int(line),
            "prompt": text(prompt),
            "prediction": text(result.ids),
            "label": text(_real(label, pad_id)),
            "finish_reason": result.finish_reason,
        }
        for line, prompt, label, result in zip(batch.rows, prompts, batch.labels, results, strict=True)
    ]


def _real(row: Any, pad_id: int) -> list[int]:
    """Ids of a label row without padding."""
    ids = [int(token) for token in row if int(token) >= 0]
    while ids and ids[-1] == pad_id:
        ids.pop()
    return ids


@contextlib.contextmanager
def _lines(path: str | Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a mapping as one JSON line; the file appears at the end."""
    if path is None:
        yield lambda fields: None
        return
    with atomic_write(path, "w") as file:
        yield lambda fields: _write(file, fields)


def _write(file: IO[str], fields: dict[str, Any]) -> None:
    file.write(json.dumps(fields, ensure_ascii=False) + "\n")
