"""Processes that die or hang cost their own check."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load

from mindformers_glm.conformance import recorded, report, runner, worker
from mindformers_glm.conformance.check import Answer, Check
from mindformers_glm.conformance.inputs import rounded
from mindformers_glm.conformance.outcome import judge

WORKER = """
import os, signal, sys
import numpy as np
folder, target, *names = sys.argv[1:]
for name in names:
    print(name, flush=True)
    check = name.partition(":")[0]
    if check == "dies":
        sys.exit("the driver said no")
    if check == "hangs":
        signal.pause()
    if check == "skipped":
        open(f"{folder}/part", "w").write("skipped\\nnot here")
        os.replace(f"{folder}/part", f"{folder}/{name}.txt")
        continue
    np.savez(f"{folder}/part.npz", **{"found/x": np.ones(2), "wanted/x": np.ones(2), "note": np.array("")})
    os.replace(f"{folder}/part.npz", f"{folder}/{name}.npz")
"""


def check(name, **changes):
    return Check(name, f"place of {name}", lambda kind: None, "nothing", (), ("float32",), 1.0, 1)._replace(**changes)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Checks by name through a worker that knows no MindSpore: outcomes as (name, state, fault)."""
    (tmp_path / "quick_worker.py").write_text(WORKER)
    monkeypatch.setattr(runner, "MODULE", "quick_worker")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def run(*names, seconds=60.0):
        found = runner.run([(check(name), "float32") for name in names], "CPU", seconds=seconds).outcomes
        return [(one.check.name, one.state, one.fault) for one in found]

    return run


def test_the_check_that_ends_the_process_fails_and_the_others_go_on(quick):
    assert quick("one", "dies", "skipped", "two") == [
        ("one", "ok", ""),
        ("dies", "fail", "the process ended with status 1: the driver said no"),
        ("skipped", "skipped", "not here"),
        ("two", "ok", ""),
    ]


def test_a_process_that_hangs_is_ended(quick):
    assert quick("hangs", seconds=1.0) == [
        ("hangs", "fail", "no result in 1 s: the device or its driver hangs"),
    ]


def test_what_ends_a_process_at_its_start_ends_every_check(quick, monkeypatch):
    monkeypatch.setattr(runner, "MODULE", "no_such_worker")
    found = quick("one", "two")
    assert [state for _, state, _ in found] == ["fail", "fail"]
    assert "No module named no_such_worker" in found[1][2]


def test_answers_survive_their_file(tmp_path):
    answer = Answer({"a b": np.arange(3.0)}, {"a b": np.zeros(3)}, "said")
    worker.save(tmp_path / "x.npz", answer)
    again = worker.load(tmp_path / "x.npz")
    assert again.note == "said" and again.found["a b"].tolist() == [0, 1, 2] and again.wanted["a b"].tolist() == [0] * 3


@pytest.mark.parametrize(
    ("found", "known", "state", "hint"),
    [
        ([1.0, 2.0], [1.0, 2.0], "ok", ""),
        ([1.0, 2.0 + 1e-3], [1.0, 2.0], "fail", "HF32"),
        ([1.0, 2.0], [1.0, 2.1], "fail", "recorded"),
        ([1.0, float("nan")], [1.0, 2.0], "fail", ""),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "fail", ""),
    ],
)
def test_judgement(found, known, state, hint):
    answer = Answer({"x": np.array(found)}, {"x": np.array([1.0, 2.0])})
    outcome = judge(check("one"), "float32", answer, {"one/x": np.array(known, np.float32)})
    assert outcome.state == state and hint in outcome.note
    json.loads(json.dumps(report.about("CPU", [outcome], {}), allow_nan=False))


def test_recorded_numbers_keep_their_shapes(tmp_path):
    answers = {"one": Answer({"loss": np.array(2.5), "rows": np.eye(3).T}, {})}
    assert recorded.write(answers, tmp_path / "r.safetensors") == 2
    found = load((tmp_path / "r.safetensors").read_bytes())
    assert {name: value.shape for name, value in found.items()} == {"one/loss": (), "one/rows": (3, 3)}


def test_bfloat16_is_rounded_to_the_nearest_even():
    ms = pytest.importorskip("mindspore")
    values = np.random.default_rng(0).standard_normal(200)
    theirs = ms.Tensor(values.astype(np.float32)).astype(ms.bfloat16).astype(ms.float32).asnumpy()
    assert np.array_equal(rounded(values, "bfloat16"), theirs)
