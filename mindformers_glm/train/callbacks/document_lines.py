"""Lines and files of other documents' trainers: dictionaries as transformers logs them, Cambricon's benchmark JSON."""

from __future__ import annotations

import datetime
import json
import statistics
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path, write_text
from mindformers_glm.log import logger
from mindformers_glm.registry import CALLBACKS
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.state import RunState


@CALLBACKS.register()
class DictMonitor(Callback):
    """{'loss': 2.0576, 'learning_rate': 4.9995e-05, 'epoch': 0.03} every `logging_steps` steps, as FastChat's trainer.

    The loss is the mean since the last line; the last line has run time, speed and the mean loss of the whole run.
    """

    def __init__(self, logging_steps: int = 1) -> None:
        self.logging_steps = _positive(logging_steps, "DictMonitor.logging_steps")
        self._losses: list[float] = []
        self._total, self._seconds, self._steps = 0.0, 0.0, 0

    def on_step_end(self, state: RunState) -> None:
        """Prints when it is time."""
        self._losses.append(state.last.loss)
        self._total += state.last.loss
        self._seconds += state.step_seconds + state.data_seconds
        self._steps += 1
        if state.rank == 0 and (state.done % self.logging_steps == 0 or state.is_last):
            line = {
                "loss": round(statistics.fmean(self._losses), 4),
                "learning_rate": float(f"{state.last.learning_rate:.5g}"),
                "epoch": round(state.done / state.plan.steps_per_epoch, 2),
            }
            print(line, flush=True)
            self._losses.clear()

    def on_train_end(self, state: RunState) -> None:
        """Prints the summary."""
        if state.rank != 0 or not self._steps:
            return
        seconds = max(self._seconds, 1e-9)
        line = {
            "train_runtime": round(self._seconds, 4),
            "train_samples_per_second": round(self._steps * state.global_batch / seconds, 3),
            "train_steps_per_second": round(self._steps / seconds, 3),
            "train_loss": self._total / self._steps,
            "epoch": round(state.done / state.plan.steps_per_epoch, 2),
        }
        print(line, flush=True)


@CALLBACKS.register()
class BenchmarkRecord(Callback):
    """Cambricon's benchmark JSON, of real steps of this run, printed and written to `file` by rank 0.

    The first `warm_up_steps` do not count; `steps` after them do, and then the run ends. Times are in seconds, of a
    whole step with its data (batch_time) and without (hardware_time); throughput is samples/s over all cards. `labels`
    are what the run cannot know: net, precision, DPF_mode, device, dataset.
    """

    FIELDS = (
        "date",
        "net",
        "batch_size",
        "cards",
        "precision",
        "DPF_mode",
        "batch_time_avg",
        "batch_time_var",
        "hardware_time_avg",
        "hardware_time_var",
        "throughput",
        "device",
        "dataset",
    )

    def __init__(self, *, file: str, labels: dict[str, str], steps: int = 20, warm_up_steps: int = 3) -> None:
        self.path = user_path(file)
        self.labels = {str(name): str(value) for name, value in labels.items()}
        missing = {"net", "precision", "DPF_mode", "device", "dataset"} ^ set(self.labels)
        if missing:
            raise ConfigError("callbacks.BenchmarkRecord.labels", labels, f"Name these alone: {', '.join(missing)}.")
        self.steps = _positive(steps, "BenchmarkRecord.steps")
        self.warm_up_steps = _positive(warm_up_steps, "BenchmarkRecord.warm_up_steps")
        self._batch: list[float] = []
        self._hardware: list[float] = []
        self._seen = 0

    def on_step_end(self, state: RunState) -> None:
        """Takes note of the times; ends the run when there are enough."""
        self._seen += 1
        if self._seen > self.warm_up_steps:
            self._batch.append(state.step_seconds + state.data_seconds)
            self._hardware.append(state.step_seconds)
        if len(self._batch) >= self.steps:
            state.ends_early = True

    def close(self, state: RunState) -> None:
        """Writes the file where at least one step counts."""
        if state.rank != 0:
            return
        if not self._batch:
            logger.warning("No benchmark JSON: the run made %d steps, all of them warm-up.", self._seen)
            return
        text = json.dumps(self.record(state), ensure_ascii=False, indent=4) + "\n"
        write_text(self.path, text)
        print(text, end="", flush=True)

    def record(self, state: RunState) -> dict[str, Any]:
        """The fields, in their order."""
        mean = statistics.fmean(self._batch)
        values = {
            **self.labels,
            "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "batch_size": state.batch_size,
            "cards": state.rank_size,
            "batch_time_avg": round(mean, 6),
            "batch_time_var": round(statistics.pvariance(self._batch), 6),
            "hardware_time_avg": round(statistics.fmean(self._hardware), 6),
            "hardware_time_var": round(statistics.pvariance(self._hardware), 6),
            "throughput": round(state.rank_size * state.batch_size / mean, 2),
        }
        return {name: values[name] for name in self.FIELDS}


def written(path: str | Path) -> dict[str, Any]:
    """A benchmark JSON as `BenchmarkRecord` or Cambricon's script wrote it.

    Raises:
        ConfigError: a field is missing.
    """
    values = json.loads(user_path(path).read_text(encoding="utf-8"))
    missing = [name for name in BenchmarkRecord.FIELDS if name not in values]
    if missing:
        raise ConfigError("benchmark JSON", str(path), f"It lacks {', '.join(missing)}.")
    return values


def _positive(value: Any, key: str) -> int:
    if int(value) < 1:
        raise ConfigError(f"callbacks.{key}", value, "Use 1 or more.")
    return int(value)
