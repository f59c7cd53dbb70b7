"""The training loop: batches in, steps, callbacks, an orderly end whatever happens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice

from mindformers_glm.data.batch import Batch, Dataset
from mindformers_glm.errors import TrainingStopped
from mindformers_glm.log import logger
from mindformers_glm.optim import Schedule
from mindformers_glm.runtime import is_graph_mode
from mindformers_glm.train.callbacks.base import Callback
from mindformers_glm.train.interrupt import Interrupt
from mindformers_glm.train.plan import Position
from mindformers_glm.train.state import RunState

MAX_OVERFLOWS = 20  # in a row, when the loss scale cannot fall any more


def fit(state: RunState, dataset: Dataset, schedule: Schedule, callbacks: Sequence[Callback] = ()) -> RunState:
    """Trains from `state` to the end of its plan, or to where a callback ends it, and returns the state.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the step in progress, on all ranks after the same one;
    callbacks save, and TrainingStopped says how to go on.

    Raises:
        TrainingStopped: an interrupt, a loss that is not finite, or overflows that do not end.
    """
    begun = 0
    try:
        if state.is_last:
            for callback in callbacks:
                begun += 1
                callback.on_nothing_to_train(state)
            logger.info("Nothing to train: %d of %d steps are completed.", state.done, state.plan.total_steps)
            return state
        for callback in callbacks:
            begun += 1
            callback.on_train_begin(state)
        with Interrupt() as interrupt:
            if not state.ends_early:  # a resumed run may have come to its early end
                _run(state, dataset, schedule, callbacks, interrupt)
            for callback in callbacks:  # a signal waits until the last step is saved
                callback.on_train_end(state)
    except TrainingStopped:
        raise
    except BaseException as error:
        for callback in callbacks[:begun]:
            callback.on_error(state, error)
        raise
    finally:
        for callback in callbacks[:begun]:
            callback.close(state)
    return state


def _run(
    state: RunState, dataset: Dataset, schedule: Schedule, callbacks: Sequence[Callback], interrupt: Interrupt
) -> None:
    stuck_in_a_row = 0
    for batches, data_seconds in _micro_batches(state, dataset):
        _announce(state, batches)
        state.tokens = sum(batch.input_ids.size for batch in batches)
        state.sequence_length = batches[0].input_ids.shape[1]
        begin, rate = time.perf_counter(), schedule(state.updates)
        result = state.step(batches, rate, stop=interrupt.requested)
        state.first_step = state.result is None
        state.step_seconds, state.data_seconds, state.result = time.perf_counter() - begin, data_seconds, result
        state.done += 1
        state.updates += not result.overflow
        state.overflows += result.overflow
        _announce_compiled(state)
        if not math.isfinite(result.loss):
            raise TrainingStopped(_not_finite(state, batches))
        stuck = result.overflow and state.step.loss_scale.value >= result.loss_scale
        stuck_in_a_row = stuck_in_a_row + 1 if stuck else 0
        if stuck_in_a_row >= MAX_OVERFLOWS:
            raise TrainingStopped(_overflowing(state, batches))
        for callback in callbacks:
            callback.on_step_end(state)
        if state.ends_epoch:
            for callback in callbacks:
                callback.on_epoch_end(state)
        if state.is_last or state.ends_early:
            return
        if result.stop or (interrupt.requested and state.rank_size == 1):
            raise TrainingStopped(_interrupted(state, callbacks))


def _micro_batches(state: RunState, dataset: Dataset) -> Iterator[tuple[list[Batch], float]]:
    """The batches of each step, and the seconds spent waiting for them; ends when the plan does."""
    size = state.step.accumulation
    while True:
        epoch, start = state.position()
        source = iter(dataset.batches(epoch, start * size))
        for _ in range(start, state.plan.steps_per_epoch):
            begin = time.perf_counter()
            batches = list(islice(source, size))
            yield batches, time.perf_counter() - begin
        close = getattr(source, "close", None)
        if close is not None:
            close()  # batches that fill no step are dropped


def _announce(state: RunState, batches: Sequence[Batch]) -> None:
    if state.result is None and is_graph_mode():
        shape = " x ".join(map(str, batches[0].input_ids.shape))
        logger.info("Compiling the training graph for batches of %s; this takes a while, once.", shape)


def _announce_compiled(state: RunState) -> None:
    if state.first_step:
        what = "Compiled, and made the first step," if is_graph_mode() else "Made the first step"
        logger.info("%s in %.1f s.", what, state.step_seconds)


def _place(state: RunState, batches: Sequence[Batch]) -> str:
    rows = [int(row) for batch in batches for row in batch.rows]
    shown = ", ".join(map(str, rows[:32])) + (f" and {len(rows) - 32} more" if len(rows) > 32 else "")
    position = Position(state.epoch, state.step_in_epoch)
    return (
        f"step {state.done} (epoch {position.epoch}, step {position.step} of it; "
        f"samples in lines {shown}; learning rate {state.last.learning_rate:g})"
    )


def _not_finite(state: RunState, batches: Sequence[Batch]) -> str:
    return (
        f"The loss is {state.last.loss} at {_place(state, batches)}. The weights of the step before are intact, and "
        "so are checkpoints. Lower lr_schedule.learning_rate, set runner_wrapper.use_clip_grad: True, or look at "
        "these samples."
    )


def _overflowing(state: RunState, batches: Sequence[Batch]) -> str:
    return (
        f"Gradients were not finite in {MAX_OVERFLOWS} steps in a row although the loss scale "
        f"({state.last.loss_scale:g}) cannot fall any more, last at {_place(state, batches)}. No update was made in "
        "them. Lower lr_schedule.learning_rate, or compute in float32 or bfloat16."
    )


def _interrupted(state: RunState, callbacks: Sequence[Callback]) -> str:
    saved = [place for place in (callback.on_interrupt(state) for callback in callbacks) if place]
    head = f"Interrupted after step {state.done} of {state.plan.total_steps}."
    if not saved:
        return f"{head} Nothing was saved: there is no CheckpointMonitor in `callbacks`."
    return f"{head} Saved {', '.join(map(str, saved))}. To go on, {state.resume_hint}."
