"""`mindformers-glm conformance`, without computing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm.cli import conformance as command
from mindformers_glm.conformance import report, runner
from mindformers_glm.conformance.check import Answer
from mindformers_glm.conformance.outcome import Outcome, judge, suspects
from mindformers_glm.errors import ConfigError, DeviceError

RIGHT = Answer({"layer 0": np.ones(3), "layer 1": np.ones(3)}, {"layer 0": np.ones(3), "layer 1": np.ones(3)})
WRONG = RIGHT._replace(found={"layer 0": np.ones(3), "layer 1": np.full(3, 1.001)})


@pytest.fixture
def computed(monkeypatch):
    """Makes the kit find every check right but those named; what was asked for as (check, kind)."""
    asked, wrong = [], set()

    def run(tasks, target, *, seconds, told):
        found = []
        for check, kind in tasks:
            asked.append((check.name, kind))
            outcome = judge(check, kind, WRONG if check.name in wrong else RIGHT, {})
            found.append(outcome)
            told(outcome)
        return runner.Result(found, {})

    monkeypatch.setattr(runner, "run", run)
    return asked, wrong


def test_all_right_is_status_0_and_two_files(computed, tmp_path, capsys):
    assert command.main(["--output_dir", str(tmp_path / "out")]) == 0
    asked, _ = computed
    assert ("network", "float16") in asked and not any(name.startswith("ranks.") for name, _ in asked)
    content = json.loads((tmp_path / "out/conformance.json").read_text())
    assert content["counts"] == {"ok": len(asked), "fail": 0, "skipped": 0} and content["look_at"] == []
    text = (tmp_path / "out/conformance.txt").read_text()
    assert "Drift layer by layer" in text and "Nothing here vouches for an Ascend" in text
    assert f"{len(asked)} ok, 0 failed" in capsys.readouterr().out


def test_what_a_failure_is_made_of_is_named(computed, tmp_path, capsys):
    computed[1].update({"ascend.rotary", "ascend.flash", "layer", "network", "gradients"})
    assert command.main(["--output_dir", str(tmp_path)]) == 1
    content = json.loads((tmp_path / "conformance.json").read_text())
    assert [row["place"] for row in content["look_at"]] == [
        "ops/ascend.py: FlashAttention, rotary mode 1 (neighbouring pairs)"
    ]
    assert "switch off: use_flash_attention: False" in capsys.readouterr().out
    failed = next(row for row in content["results"] if row["check"] == "network")
    assert failed["drift"][1]["relative"] == pytest.approx(1e-3) and failed["max_absolute_error"] > 0


def test_ranks_and_only_choose(computed, tmp_path):
    assert command.main(["--ranks", "2", "--only", "ranks.*", "--output_dir", str(tmp_path)]) == 0
    assert {name for name, _ in computed[0]} >= {"ranks.all_reduce", "ranks.network"}
    assert all(name.startswith("ranks.") for name, _ in computed[0])


def test_a_check_that_is_not_there_is_told(computed):
    with pytest.raises(ConfigError, match="--only: got 'norm'. Use one of rms_norm, "):
        command.main(["--only", "norm"])


def test_without_an_ascend_nothing_is_pretended(computed):
    with pytest.raises(DeviceError, match="no Ascend device"):
        command.main(["--device_target", "Ascend"])
    assert computed[0] == []


def test_the_list_runs_nothing(computed, capsys):
    assert command.main(["--list", "--only", "ascend.*"]) == 0
    assert "ops/ascend.py: AscendSwiGLU" in capsys.readouterr().out and computed[0] == []


def test_a_skipped_check_is_no_failure_and_says_why(checks):
    outcome = Outcome(checks["export.lite"], "float32", "skipped", fault="MindSpore Lite is not here")
    content = report.about("Ascend", [outcome], {})
    assert suspects([outcome]) == [] and "MindSpore Lite is not here" in report.text(content)
    assert "Nothing here vouches" not in report.text(content)
