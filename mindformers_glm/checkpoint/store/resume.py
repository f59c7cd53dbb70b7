"""Everything a training run needs to go on as if it had never stopped, and its two-way mapping to one .ckpt."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import typed
from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt
from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.checkpoint.load.names import Kind, meaning
from mindformers_glm.checkpoint.load.source import open_file
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import parse_json
from mindformers_glm.optim.interface import is_counter, state_of

_ENTRY = "train_state"  # JSON text as bytes: what MindFormers did not keep (its tools stumble over a text entry)
_VERSION = 1
_NOT_KEPT = ("global_step", "learning_rate")  # of the run, not of its optimizer: read apart, or assigned anew


@dataclass
class TrainState:
    """One moment of a training run.

    `epoch` counts the completed epochs and `step_in_epoch` the completed batches of the running one,
    so both are 0 at the start and (1, 0) after an epoch of `steps_per_epoch` batches. `global_step` counts optimizer
    steps; a schedule is a function of it. `weights` and `optimizer` map names to arrays ("adam_m.<p>", "adam_v.<p>"
    and whatever else the optimizer keeps). `rng` comes from `capture_rng`. `data` describes the data (seed, batch size,
    ranks) so that the trainer can refuse to resume on others.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    global_step: int = 0
    loss_scale: float = 1.0
    loss_scale_good_steps: int = 0
    rng: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    steps_per_epoch: int = 0

    @property
    def file_epoch_step(self) -> tuple[int, int]:
        """(epoch from 1, steps done in it): the two numbers in the file's name, as MindSpore counts them."""
        if self.step_in_epoch == 0 and self.epoch:
            return self.epoch, self.steps_per_epoch
        return self.epoch + 1, self.step_in_epoch

    def snapshot(self) -> TrainState:
        """A copy whose arrays no later training step can change."""
        copies = {
            "weights": {name: np.array(value) for name, value in self.weights.items()},
            "optimizer": {name: np.array(value) for name, value in self.optimizer.items()},
        }
        return TrainState(**{**self.__dict__, **copies})


def capture_rng() -> dict[str, Any]:
    """The state of Python's, NumPy's and MindSpore's global generators, as plain values."""
    import mindspore as ms  # noqa: PLC0415 - reading a state needs no MindSpore

    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numbers = np.asarray(keys).tolist()
    version, internal, gauss_next = random.getstate()
    return {
        "numpy": [kind, numbers, position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
        "mindspore_seed": ms.get_seed(),
        "mindspore": ms.get_rng_state().asnumpy().tolist(),
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Sets the generators to a state that `capture_rng` returned; an empty one changes nothing."""
    import mindspore as ms  # noqa: PLC0415

    if state.get("mindspore_seed") is not None:
        ms.set_seed(state["mindspore_seed"])  # first: it seeds the other generators too
    if "numpy" in state:
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    if "python" in state:
        version, internal, gauss_next = state["python"]
        random.setstate((version, tuple(internal), gauss_next))
    if "mindspore" in state:
        ms.set_rng_state(ms.Tensor(np.array(state["mindspore"], np.uint8)))


def to_ckpt(state: TrainState) -> tuple[dict[str, Any], dict[str, str]]:
    """(arrays, texts) of a .ckpt with MindFormers' entries, and one entry of bytes for the rest; no texts."""
    epoch_num, step_num = state.file_epoch_step
    arrays: dict[str, Any] = dict(state.weights)
    arrays["global_step"] = np.array([state.global_step], np.int32)
    arrays.update(state.optimizer)
    arrays.update(epoch_num=epoch_num, step_num=step_num, loss_scale=float(state.loss_scale))
    rest = {
        "version": _VERSION,
        "epoch": state.epoch,
        "step_in_epoch": state.step_in_epoch,
        "steps_per_epoch": state.steps_per_epoch,
        "loss_scale": float(state.loss_scale).hex(),
        "loss_scale_good_steps": state.loss_scale_good_steps,
        "weights": len(state.weights),
        "optimizer": len(state.optimizer),
        "rng": state.rng,
        "data": state.data,
    }
    arrays[_ENTRY] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    return arrays, {}


def read_train_state(path: str | Path, *, steps_per_epoch: int = 0) -> TrainState:
    """The state in a checkpoint written by `to_ckpt`, or by MindFormers 0.8-1.x (then without random states).

    MindFormers did not write the length of an epoch: give `steps_per_epoch`, so that the last step of an epoch is
    known as its end, and steps are counted where a constant learning rate left its `global_step` at 0.

    Raises:
        CheckpointError: damaged, or it holds weights only.
    """
    file = open_file(Path(path))
    return _ours(file) if _rest_text(file) else _mindformers(file, steps_per_epoch)


def data_of(path: str | Path) -> dict[str, Any]:
    """What a training checkpoint of ours says about its data and ranks; empty for others. Reads no weights."""
    try:
        return dict(parse_json(_rest_text(open_file(Path(path))) or "{}").get("data", {}))
    except (ValueError, TypeError, AttributeError):
        return {}


def _rest_text(file: TensorFile) -> str:
    if _ENTRY in file.entries:
        return file.read_bits(_ENTRY).tobytes().decode("utf-8", "replace")
    return file.metadata.get(_ENTRY, "")


def global_step_of(path: str | Path) -> int:
    """The optimizer step of a training checkpoint, without reading its weights.

    Raises:
        CheckpointError: the file is damaged (its whole structure is checked) or no training checkpoint.
    """
    file = open_ckpt(path)
    if "global_step" not in file.entries:
        raise _weights_only(file)
    return _number(file, "global_step")


def _ours(file: TensorFile) -> TrainState:
    try:
        rest = parse_json(_rest_text(file))
        names = list(file.entries)
        count = rest["weights"]
        weights, optimizer = names[:count], names[count + 1 : count + 1 + rest["optimizer"]]
        return TrainState(
            epoch=rest["epoch"],
            step_in_epoch=rest["step_in_epoch"],
            global_step=_number(file, "global_step"),
            loss_scale=float.fromhex(rest["loss_scale"]),
            loss_scale_good_steps=rest["loss_scale_good_steps"],
            rng=rest["rng"],
            weights={name: _read(file, name) for name in weights},
            optimizer={name: _read(file, name) for name in optimizer},
            data=rest["data"],
            steps_per_epoch=rest["steps_per_epoch"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            str(file.path), "its training state cannot be read", "Use an earlier checkpoint."
        ) from error


def _mindformers(file: TensorFile, steps_per_epoch: int) -> TrainState:
    if "epoch_num" not in file.entries or "step_num" not in file.entries:
        raise _weights_only(file)
    state = TrainState(steps_per_epoch=steps_per_epoch)
    for name in file.entries:
        read = meaning(name)
        if read.kind in (Kind.WEIGHT, Kind.ADAPTER):
            state.weights[read.ours if read.parts == 1 else name] = _read(file, name)
        elif read.kind is Kind.STATE and (state_of(name) is not None or (is_counter(name) and name not in _NOT_KEPT)):
            state.optimizer[_our_state(name)] = _read(file, name)
    state.epoch, state.step_in_epoch = max(0, _number(file, "epoch_num") - 1), _number(file, "step_num")
    if steps_per_epoch and state.step_in_epoch == steps_per_epoch:
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
    state.global_step = _number(file, "global_step") if "global_step" in file.entries else 0
    if state.global_step == 0:
        state.global_step = state.epoch * steps_per_epoch + state.step_in_epoch
    scale = _read(file, "loss_scale").reshape(-1).tolist() if "loss_scale" in file.entries else []
    state.loss_scale = float(scale[0]) if scale else 1.0
    return state


def _our_state(name: str) -> str:
    """adam_m.<p> with <p> under our name; a counter as it is."""
    state = state_of(name)
    if state is None:
        return name
    read = meaning(state.parameter)
    known = read.kind in (Kind.WEIGHT, Kind.ADAPTER) and read.parts == 1
    return state.prefix + read.ours if known else name


def _number(file: TensorFile, name: str) -> int:
    """A counter, of any integer or float type."""
    value = file.read_bits(name).reshape(-1)
    if not value.size or not np.isfinite(value[0]) or file.entries[name].dtype == "bfloat16":
        raise CheckpointError(str(file.path), f"its {name} is no number", "Use an earlier checkpoint.")
    return int(value[0])


def _read(file: TensorFile, name: str) -> np.ndarray:
    return typed(file.read_bits(name), file.entries[name].dtype)


def _weights_only(file: TensorFile) -> CheckpointError:
    return CheckpointError(
        str(file.path),
        "it holds weights and no training state",
        "Resume from a file in output/checkpoint/, or train on from these weights without resume_training.",
    )
