"""The schedules of a pipeline: neighbours meet in the same order, every micro batch goes there and back."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import pytest

from mindformers_glm.parallel.mesh import Axis
from mindformers_glm.parallel.pipeline import run


class Wire:
    """One end of a pair; what it gives waits for the other end, as a real exchange does."""

    def __init__(self, mine, theirs):
        self.mine, self.theirs = mine, theirs

    def send(self, x):
        self.theirs.put(("send", x))
        assert self.mine.get(timeout=20) == ("taken", None)

    def receive(self, shape, dtype):
        kind, x = self.mine.get(timeout=20)
        assert kind == "send"
        self.theirs.put(("taken", None))
        return x

    def swap(self, x):
        self.theirs.put(("swap", x))
        kind, got = self.mine.get(timeout=20)
        assert kind == "swap"
        return got


@pytest.mark.parametrize("scheduler", ["1f1b", "gpipe"])
@pytest.mark.parametrize(("stages", "count"), [(2, 2), (2, 5), (3, 3), (4, 7)])
def test_every_micro_batch_passes_all_stages_there_and_back(stages, count, scheduler):
    ends = [(queue.Queue(), queue.Queue()) for _ in range(stages - 1)]
    done, most, faults = {}, {}, []

    def stage(number):
        pipe = SimpleNamespace(
            stage=Axis("pp", tuple(range(stages)), number),
            before=Wire(ends[number - 1][1], ends[number - 1][0]) if number else None,
            after=Wire(*ends[number]) if number + 1 < stages else None,
        )
        kept = []

        def forward(i, x):
            kept.append(i)
            most[number] = max(most.get(number, 0), len(kept))
            assert x == (None if number == 0 else (i, number - 1))
            return None if number + 1 == stages else (i, number)

        def backward(i, x, dy):
            kept.remove(i)
            assert x == (None if number == 0 else (i, number - 1))
            assert dy == (None if number + 1 == stages else (i, -(number + 1)))
            done.setdefault(number, []).append(i)
            return (i, -number)

        try:
            run(pipe, count, forward, backward, shapes=[(1,)] * count, dtype=None, scheduler=scheduler)
        except Exception as error:  # noqa: BLE001 - told below, in the thread that tests
            faults.append((number, error))

    threads = [threading.Thread(target=stage, args=(number,), daemon=True) for number in range(stages)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not faults
    assert done == {number: list(range(count)) for number in range(stages)}
    limit = {number: min(stages - number, count) if scheduler == "1f1b" else count for number in range(stages)}
    assert most == limit
