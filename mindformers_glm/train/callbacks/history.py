"""The losses of a run beside its output: a line of JSON for each step always, a picture where matplotlib is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from mindformers_glm.files import write_text
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.curve import draw_curve
from mindformers_glm.train.state import RunState


class LossHistory(Callback):
    """`<output>/loss_history.jsonl`, and at every end of training `<output>/loss_curve.png`; on rank 0 only.

    A resumed run goes on in the same file; lines of steps after the checkpoint it resumed from are dropped.
    """

    def __init__(self, *, curve: bool = True) -> None:
        self.curve = curve
        self.records: list[dict[str, Any]] = []
        self.path: Path | None = None
        self._file: IO[str] | None = None

    def on_train_begin(self, state: RunState) -> None:
        """Opens the file."""
        if state.rank != 0:
            return
        self.path = state.output_dir / "loss_history.jsonl"
        kept = read_history(self.path) if state.resumed else []
        self.records = [record for record in kept if record["step"] <= state.done]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))
        self._file = self.path.open("a", encoding="utf-8")

    def on_step_end(self, state: RunState) -> None:
        """Adds a line."""
        if self._file is None:
            return
        result = state.last
        record = {
            "step": state.done,
            "epoch": state.epoch,
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm if not result.overflow else None,
            "loss_scale": result.loss_scale,
            "overflow": result.overflow,
            "seconds": round(state.step_seconds, 6),
        }
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self, state: RunState) -> None:
        """Closes the file and draws the curve."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self.curve and self.records and self.path is not None:
            draw_curve(self.records, self.path.with_name("loss_curve.png"), state.evaluations)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of a history, in order; a last line cut short by a killed process is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
