"""Faults put into the suite are found, and the place that is named is theirs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mindformers_glm.conformance import report, runner
from mindformers_glm.conformance.faults import FAULTS, injected
from mindformers_glm.conformance.outcome import suspects
from mindformers_glm.conformance.worker import FAULT
from mindformers_glm.errors import ConfigError

ALONE = [name for name, fault in FAULTS.items() if not fault.found_by[0].startswith("ranks.")]
TWELVE = [  # with many checks made of what is wrong; the whole kit takes its time
    *("rotary_sign", "attention_scale", "kv_groups", "causal_mask", "norm_float16", "norm_eps", "gate_up", "bias"),
    *("loss_divisor", "ignored_label", "adam_correction", "ascend_kv_groups"),
]
TOGETHER = [name for name in FAULTS if name not in ALONE]


def parts_of(checks, names):
    """The checks of these names after everything that they are made of."""
    found = []
    for name in names:
        found += [part for part in parts_of(checks, checks[name].needs) if part not in found]
        found += [name] if name not in found else []
    return found


@pytest.mark.parametrize("name", ALONE)
def test_a_fault_is_named_at_its_place(checks, outcomes, name):
    wanted = FAULTS[name].found_by
    with injected(name):
        found = outcomes(*parts_of(checks, wanted))
    if name.startswith("kernel") and not found:
        pytest.skip("the kernels are not built")
    assert tuple(check.name for check in suspects(found)) == wanted
    assert all(outcome.state == "ok" for outcome in found if outcome.check.name not in wanted)


def test_there_are_at_least_twelve_of_every_part():
    assert len(FAULTS) >= 12
    assert {check.partition(".")[0] for fault in FAULTS.values() for check in fault.found_by} == {
        *("rotary", "attention", "rms_norm", "swiglu", "linear", "cross_entropy", "embedding"),
        *("ascend", "optimizer", "step", "ranks"),
    }


def test_an_unknown_fault_is_told():
    with (
        pytest.raises(ConfigError, match="GLM_CONFORMANCE_FAULT: got 'sine'. Use one of rotary_sign, "),
        injected("sine"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *TWELVE])
def test_the_whole_kit_names_the_place_and_no_other(checks, monkeypatch, name):
    monkeypatch.setenv(FAULT, name)
    tasks = [(check, kind) for check in checks.values() if check.ranks == 1 for kind in check.kinds[: 1 if name else 3]]
    found = runner.run(tasks, "CPU").outcomes
    wanted = FAULTS[name].found_by if name else ()
    assert tuple(sorted(check.name for check in suspects(found))) == tuple(sorted(wanted))
    content = report.about("CPU", found, {})
    assert [row["place"] for row in content["look_at"]] == [check.place for check in suspects(found)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *TOGETHER])
def test_faults_of_exchanges_are_found_by_two_processes(checks, monkeypatch, name):
    monkeypatch.setenv(FAULT, name)
    tasks = [(check, kind) for check in checks.values() if check.ranks == 2 for kind in check.kinds]
    found = runner.run(tasks, "CPU").outcomes
    assert len(found) == len(tasks)
    assert tuple(check.name for check in suspects(found)) == (FAULTS[name].found_by if name else ())


@pytest.mark.slow
def test_the_command_writes_both_files_and_fails(root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mindformers_glm", "conformance", "--only", "rms_norm", "--output_dir", "out"],
        env={**os.environ, "PYTHONPATH": str(root), FAULT: "norm_float16"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert "look at ops/rms_norm.py: RmsNormWithGradient, the formula" in done.stdout
    text = (tmp_path / "out/conformance.txt").read_text()
    assert "float16, bfloat16 or HF32" in text and "No" not in text.splitlines()[0]
    assert (tmp_path / "out/conformance.json").is_file()
