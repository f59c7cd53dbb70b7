"""Kills saves: `python killed_saves.py store|directory|moments FOLDER [NUMBER]`. Prints a JSON line of findings.

store, directory: a profile hook counts entries and returns of the calls that change the disk and ends the forked child
with SIGKILL at number 0, NUMBER, 2 * NUMBER, ... until one comes through. moments: NUMBER children that save without
end are killed at random times. After each kill the folder is checked.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from mindformers_glm.checkpoint.convert import run_plan, save_directory  # noqa: E402
from mindformers_glm.checkpoint.convert.arrays import ArraySource  # noqa: E402
from mindformers_glm.checkpoint.convert.plan import plan_conversion  # noqa: E402
from mindformers_glm.checkpoint.convert.verify import verify  # noqa: E402
from mindformers_glm.checkpoint.load.source import read_weights  # noqa: E402
from mindformers_glm.checkpoint.store import CheckpointStore  # noqa: E402
from mindformers_glm.checkpoint.store.resume import TrainState  # noqa: E402
from mindformers_glm.checkpoint.store.saved import of_rank  # noqa: E402
from mindformers_glm.files import is_temporary  # noqa: E402
from mindformers_glm.models.glm.config import ChatGLM2Config  # noqa: E402
from mindformers_glm.models.glm.weights import expected_shapes  # noqa: E402

DISK = {"write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir"}
NAME = "transformer.output_layer.weight"
TINY = ChatGLM2Config(
    num_layers=1, hidden_size=8, num_attention_heads=2, multi_query_group_num=1, kv_channels=4, ffn_hidden_size=6,
    padded_vocab_size=11,
)  # fmt: skip


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Runs `work` in a child that dies at the given disk event; False when it came through."""
    child = os.fork()
    if child == 0:
        count = [0]

        def hook(frame, event, argument) -> None:
            if event in ("c_call", "c_return") and getattr(argument, "__name__", "") in DISK:
                if count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                count[0] += 1

        sys.setprofile(hook)
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.setprofile(None)
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the save failed without being killed"
    return False


def temporaries(folder: Path) -> int:
    return sum(is_temporary(path) for path in folder.rglob("*"))


def state(step: int) -> TrainState:
    weights = {NAME: np.full((40, 30), step, np.float32)}
    moments = {f"adam_m.{NAME}": np.full((40, 30), -step, np.float32)}
    return TrainState(step_in_epoch=step, global_step=step, weights=weights, optimizer=moments, steps_per_epoch=10**9)


def check_store(folder: Path, last: int) -> int:
    """The step that a resumed run would start from; everything there is whole."""
    store = CheckpointStore(folder, resume=True, keep=2)
    found = store.load()
    assert found.global_step in (last, last + 1), (found.global_step, last)
    assert (found.weights[NAME] == found.global_step).all()
    assert (found.optimizer[f"adam_m.{NAME}"] == -found.global_step).all()
    meta = json.loads((store.folder / "meta.json").read_text())
    assert (store.folder / meta["last_ckpt_file"]).is_file()
    store.renew_network(found)
    network = read_weights(folder / "checkpoint_network/rank_0/CKP_rank_0-network.ckpt").read(NAME)
    assert (network == found.global_step).all()
    store.close()
    return found.global_step


def kill_store(folder: Path, every: int) -> dict:
    store = CheckpointStore(folder, keep=2)
    store.save(state(1))
    store.close()
    last, number, most = 1, 0, 0

    def save() -> None:
        again = CheckpointStore(folder, resume=True, keep=2)
        again.save(state(last + 1))
        again.close()

    while killed_at(number, save):
        most = max(most, temporaries(folder))
        last = check_store(folder, last)
        number += every
    check_store(folder, last)
    left = temporaries(folder)
    return {"kills": number // every, "temporaries_at_most": most, "temporaries_left": left, "last_step": last}


def kill_directory(folder: Path, every: int) -> dict:
    arrays = {name: np.ones(shape, np.float32) for name, shape in expected_shapes(TINY).items()}
    out, number, most = folder / "model", 0, 0
    save_directory(out, arrays, TINY)

    def save() -> None:
        changed = {name: 2 * array for name, array in arrays.items()}
        plan = plan_conversion(ArraySource(changed), out, "ours", config=TINY, shard_bytes=400)
        run_plan(plan, overwrite=True)

    while killed_at(number, save):
        most = max(most, temporaries(folder))
        whole = out if out.exists() else folder / "model.previous"
        assert verify(whole).faults == [], verify(whole)
        source = read_weights(whole)
        values = {float(value) for name in source.names for value in np.unique(source.read(name))}
        assert values in ({1.0}, {2.0}), values
        number += every
    assert verify(out).faults == []
    names = sorted(path.name for path in folder.iterdir())
    return {
        "kills": number // every,
        "temporaries_at_most": most,
        "temporaries_left": temporaries(folder),
        "names": names,
    }


def kill_moments(folder: Path, count: int) -> dict:
    moments, last, most = random.Random(5), 0, 0
    for _ in range(count):
        child = os.fork()
        if child == 0:
            _save_without_end(folder)
        time.sleep(moments.uniform(0.05, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        on_disk = list((folder / "checkpoint/rank_0").glob("*.ckpt"))
        sound = of_rank(folder / "checkpoint", "CKP", 0)
        assert len(sound) == len(on_disk) <= 5, (sound, on_disk)
        newest = sound[-1].global_step if sound else 0
        assert newest >= last, (newest, last)
        last, most = newest, max(most, temporaries(folder))
    store = CheckpointStore(folder, resume=True)
    if last:
        assert store.load().global_step == last
    store.close()
    return {"kills": count, "temporaries_at_most": most, "last_step": last}


def _save_without_end(folder: Path) -> None:
    store = CheckpointStore(folder, keep=3, resume=True)
    newest = store.newest()
    step = newest.global_step if newest else 0
    while True:
        step += 1
        store.save(state(step), background=step % 2 == 0)


if __name__ == "__main__":
    kinds = {"store": kill_store, "directory": kill_directory, "moments": kill_moments}
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    print(json.dumps(kinds[sys.argv[1]](target, int(sys.argv[3]) if len(sys.argv) > 3 else 1)))
