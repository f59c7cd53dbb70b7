"""The hooks of the training loop."""

from __future__ import annotations

from pathlib import Path

from mindformers_glm.train.state import RunState


class Callback:
    """Override what you need. The state is for reading; `close` is called last, however training ended."""

    def on_train_begin(self, state: RunState) -> None:
        """Called before the first step."""

    def on_nothing_to_train(self, state: RunState) -> None:
        """Called instead of all others but `close` when a resumed run has been carried out already."""

    def on_step_end(self, state: RunState) -> None:
        """Called after each step."""

    def on_epoch_end(self, state: RunState) -> None:
        """Called after the last step of each pass over the data, after its on_step_end."""

    def on_train_end(self, state: RunState) -> None:
        """Called when the whole plan has been carried out."""

    def on_interrupt(self, state: RunState) -> Path | None:
        """Called when the user stops the run; returns what was saved."""
        return None

    def on_error(self, state: RunState, error: BaseException) -> None:
        """Called when anything else ended the run early."""

    def close(self, state: RunState) -> None:
        """Gives back files, threads and the like."""
