"""Kills a training run again and again and compares it with one that was left alone.

`python killed_trainer.py FOLDER KILLS [toy|glm] [mixed|random|aimed]` trains a network of a few hundred weights (or a
tiny ChatGLM2) and saves after every step. Children are forked from this warm process. They die at a random moment, or
aimed: inside the first file of a save (the training checkpoint), between it and the second, or inside the second
(checkpoint_network). mixed: half at a random moment, half at a random call that changes the disk. Each child that
resumes compares checkpoint_network with the checkpoint, bit for bit, before its first step. Prints a JSON line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from killed_saves import DISK, temporaries  # noqa: E402
from mindspore import Parameter, Tensor, nn, ops  # noqa: E402
from waiting import seen  # noqa: E402

from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt  # noqa: E402
from mindformers_glm.checkpoint.store import checkpoints as store  # noqa: E402
from mindformers_glm.checkpoint.store.resume import read_train_state  # noqa: E402
from mindformers_glm.checkpoint.store.saved import of_rank, resume_file  # noqa: E402
from mindformers_glm.data.batch import Batch  # noqa: E402
from mindformers_glm.data.order import Order  # noqa: E402
from mindformers_glm.errors import CheckpointError  # noqa: E402
from mindformers_glm.optim import FP32StateAdamWeightDecay, decay_groups  # noqa: E402
from mindformers_glm.train.callbacks.base import Callback  # noqa: E402
from mindformers_glm.train.callbacks.checkpoint_monitor import CheckpointMonitor  # noqa: E402
from mindformers_glm.train.fit import fit  # noqa: E402
from mindformers_glm.train.plan import make_plan  # noqa: E402
from mindformers_glm.train.state import RunState, data_identity  # noqa: E402
from mindformers_glm.train.step import TrainStep  # noqa: E402

VOCABULARY, WIDTH, LENGTH, ROWS, BATCH = 17, 8, 6, 20, 4


class Toy(nn.Cell):
    """Predicts the next token from the present one, with noise from NumPy's generator in the data."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.table = Parameter(Tensor(rng.standard_normal((VOCABULARY, WIDTH)), ms.float32), name="table")
        self.weight = Parameter(Tensor(rng.standard_normal((VOCABULARY, WIDTH)) * 0.3, ms.float32), name="dense.weight")

    def construct(self, input_ids, labels):
        hidden = ops.tanh(ops.gather(self.table, input_ids.reshape(-1), 0))
        return ops.cross_entropy(ops.matmul(hidden, self.weight.T), labels.reshape(-1))


class Tokens:
    """Rows in an order fixed by (seed, epoch); tokens are replaced at random, so the random state matters too."""

    def __init__(self) -> None:
        self.ids = np.random.default_rng(3).integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
        self.order = Order(num_rows=ROWS, batch_size=BATCH, seed=3)
        self.batch_size = BATCH

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int, start: int = 0):
        for index in range(start, len(self)):
            rows = self.order.batch(epoch, index)
            ids = self.ids[rows].copy()
            ids[:, 0] = np.random.randint(0, VOCABULARY, len(rows))
            yield Batch(ids, (ids * 5 + 3) % VOCABULARY, rows + 1)


class Losses(Callback):
    """Appends each step's number and loss, bit for bit, to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_end(self, state: RunState) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps([state.done, float(state.result.loss).hex()]) + "\n")


class Agree(Callback):
    """Ends a resumed run whose checkpoint_network is not the weights of the checkpoint that it goes on from."""

    def on_train_begin(self, state: RunState) -> None:
        if state.resumed:
            assert network_agrees(state.output_dir), f"checkpoint_network is not that of {state.resumed_from}"

    on_nothing_to_train = on_train_begin


def network_agrees(folder: Path) -> bool:
    """Whether checkpoint_network holds the weights of the newest checkpoint, bit for bit."""
    path = folder / "checkpoint_network/rank_0/CKP_rank_0-network.ckpt"
    if not path.exists():
        return False
    weights, file = read_train_state(resume_file(folder)).weights, open_ckpt(path)
    return list(weights) == list(file.entries) and all(
        file.read_bits(name).tobytes() == value.tobytes() for name, value in weights.items()
    )


def network(kind: str) -> nn.Cell:
    if kind != "glm":
        return Toy()
    from tiny_networks import random_network

    return random_network(seed=1, num_layers=1, padded_vocab_size=VOCABULARY)


def train(folder: Path, kind: str, epochs: int) -> None:
    """One run, resumed where there is something to resume from; writes the final weights."""
    ms.set_context(mode=ms.GRAPH_MODE if kind == "glm" else ms.PYNATIVE_MODE)
    ms.set_seed(11)
    np.random.seed(11)
    model, data = network(kind), Tokens()
    model.set_train(True)
    groups = decay_groups(model.trainable_params(), 0.1)
    step = TrainStep(model, FP32StateAdamWeightDecay(groups, eps=1e-8))
    state = RunState(
        step=step,
        plan=make_plan(batches=len(data), epochs=epochs, accumulation=1),
        batch_size=BATCH,
        data=data_identity(data),
        output_dir=folder,
    )
    try:
        place = resume_file(folder)
        state.restore(read_train_state(place), place=str(place))
    except CheckpointError:
        assert not list((folder / "checkpoint").glob("rank_0/*.ckpt")), "there are checkpoints and none is usable"
    monitor = CheckpointMonitor(save_checkpoint_steps=1, keep_checkpoint_max=2, async_save=state.done % 4 == 0)
    fit(state, data, lambda step: 0.02 / (1 + step), [Losses(folder / "losses.jsonl"), monitor, Agree()])
    np.savez(folder / "final.npz", **{p.name: p.asnumpy() for p in state.network.get_parameters()})


def child(folder: Path, kind: str, epochs: int, stage: int | tuple[str, int, int] | None) -> int:
    """Forks a run, with the stage at which it kills itself: a call that changes the disk, or a place in a save."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        folder.mkdir(exist_ok=True)
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        if isinstance(stage, tuple):
            _die_in(*stage)
        elif stage is not None:
            _die_at(stage)
        train(folder, kind, epochs)
        status = 0
    except BaseException:  # noqa: BLE001 - the child's log is the only witness
        import traceback

        traceback.print_exc()
    finally:
        sys.setprofile(None)
        sys.stderr.flush()
        os._exit(status)


def _die_at(stage: int) -> None:
    count = [0]

    def hook(frame, event, argument) -> None:
        if event in ("c_call", "c_return") and getattr(argument, "__name__", "") in DISK:
            if count[0] == stage:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1

    threading.setprofile(hook)
    sys.setprofile(hook)


def _die_in(place: str, save: int, call: int) -> None:
    """Dies in the save of that number at a call that changes the disk: in its first file, between, in its second."""
    count, at = [0, 0], ["before"]
    write = store.save_ckpt

    def counted(path, *rest, **more) -> None:
        first = Path(path).parent.parent.name == "checkpoint"
        if first:
            count[0] += 1
        at[0], count[1] = ("first" if first else "second"), 0
        write(path, *rest, **more)
        at[0], count[1] = ("between" if first else "after"), 0

    def hook(frame, event, argument) -> None:
        if event in ("c_call", "c_return") and getattr(argument, "__name__", "") in DISK and count[0] == save:
            if at[0] == place and count[1] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            count[1] += 1

    store.save_ckpt = counted
    threading.setprofile(hook)
    sys.setprofile(hook)


def losses(folder: Path) -> dict[int, str]:
    """Step -> loss; a step that was made twice gave the same both times."""
    found: dict[int, str] = {}
    for line in (folder / "losses.jsonl").read_text().splitlines():
        if line.endswith("]"):
            done, loss = json.loads(line)
            assert found.setdefault(done, loss) == loss, f"step {done} gave another loss after resuming"
    return found


def wait(pid: int, seconds: float, steps: Path | None = None, count: int = 0) -> int | None:
    """The exit status; None when it still runs after that time, or after `count` more lines of `steps`."""
    before = _size(steps)

    def look() -> tuple[int | None] | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return (status,)
        return (None,) if steps is not None and _size(steps) - before >= count * 28 else None  # bytes of a line

    return (seen(look, seconds=seconds) or (None,))[0]


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.exists() else 0


def finish(folder: Path, kind: str, epochs: int, *, from_scratch: bool) -> None:
    """Runs to the end. A child that stands still (fork and threads of libraries) is killed and started again."""
    for _ in range(4):
        pid, status, seen = child(folder, kind, epochs, None), None, -1
        while status is None and _size(folder / "losses.jsonl") > seen:  # a slow machine is not a standstill
            seen = _size(folder / "losses.jsonl")
            status = wait(pid, 150)
        if status is not None:
            assert status == 0, (folder / "log.txt").read_text()[-3000:]
            return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if from_scratch:
            shutil.rmtree(folder)
    raise AssertionError("four children stood still")


def main(folder: Path, kills: int, kind: str, how: str) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    epochs, chance = int({"aimed": 0.6, "random": 1.0, "mixed": 1.5}[how] * kills) + 2, random.Random(7)
    straight, broken = folder / "straight", folder / "broken"
    finish(straight, kind, epochs, from_scratch=True)
    made, most, stale, missed = 0, 0, 0, 0
    places: dict[str, int] = {}
    while made < kills:
        stage = _stage(how, made, chance)
        pid = child(broken, kind, epochs, stage)
        status = wait(pid, 60, broken / "losses.jsonl", chance.randrange(0, 7) if stage is None else 30)
        if status is None:
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            missed += stage is not None
        assert os.WIFSIGNALED(status) or status == 0, (broken / "log.txt").read_text()[-3000:]
        if status == 0:
            break
        made += 1
        place = stage[0] if isinstance(stage, tuple) else ("random" if stage is None else "any call")
        places[place] = places.get(place, 0) + 1
        most = max(most, temporaries(broken))
        there = list(broken.glob("checkpoint/rank_0/*.ckpt"))
        assert len(of_rank(broken / "checkpoint", "CKP", 0)) == len(there)
        assert len(there) <= 4 or how == "aimed"  # a run that dies in its first save drops nothing: the next one does
        stale += bool(there) and not network_agrees(broken)
    finish(broken, kind, epochs, from_scratch=False)
    wanted, got = losses(straight), losses(broken)
    assert got == wanted, [step for step in wanted if got.get(step) != wanted[step]][:5]
    left, right = np.load(straight / "final.npz"), np.load(broken / "final.npz")
    for name in left.files:
        assert left[name].tobytes() == right[name].tobytes(), name
    assert network_agrees(broken) and len(list(broken.glob("checkpoint/rank_0/*.ckpt"))) <= 3
    return {
        "kills": made,
        "places": places,
        "missed": missed,  # ended by the clock instead of where they were aimed
        "network_of_an_earlier_step_after_a_kill": stale,
        "steps": len(wanted),
        "weights": len(left.files),
        "temporaries_at_most": most,
    }


def _stage(how: str, number: int, chance: random.Random) -> int | tuple[str, int, int] | None:
    if how == "aimed":
        return ("first", "between", "second")[number % 3], chance.randrange(1, 4), chance.randrange(0, 8)
    return chance.randrange(0, 140) if how == "mixed" and number % 2 else None


if __name__ == "__main__":
    ms.runtime.launch_blocking()  # operators one after the other: children are forked, and share the CPU
    arguments = [*sys.argv[3:], *("toy", "mixed")[len(sys.argv) - 3 :]]
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), *arguments)))
