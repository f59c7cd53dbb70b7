"""The kit on a CPU agrees with itself, and what it ships fits it."""

from __future__ import annotations

from mindformers_glm.conformance.check import BOUNDS
from mindformers_glm.conformance.checks.ascend import NAMES
from mindformers_glm.conformance.outcome import key
from mindformers_glm.conformance.recorded import recorded

QUICK = [
    *("rms_norm", "swiglu", "linear", "embedding", "cross_entropy", "rotary.yarn", "rotary.turn", "attention.cache"),
    *("ascend.rms_norm", "ascend.swiglu", "ascend.rotary", "linear.int4", "optimizer.adamw", "optimizer.groups"),
]


def test_operators_agree_with_formulas_and_records(outcomes):
    found = outcomes(*QUICK)
    assert [outcome.check.name for outcome in found] == QUICK
    assert [outcome for outcome in found if outcome.state != "ok"] == []
    assert all(drift.recorded is not None for outcome in found for drift in outcome.drifts)


def test_every_check_has_a_place_in_the_package_and_parts_that_exist(checks, root):
    for check in checks.values():
        assert set(check.needs) <= set(checks) and set(check.kinds) <= set(BOUNDS), check.name
        file = check.place.partition(":")[0]
        assert file == "MindSpore" or (root / "mindformers_glm" / file).exists(), check.place


def test_every_operator_of_ascend_has_a_check(checks, root):
    called = {name for name in NAMES if f"ops.{name}(" in (root / "mindformers_glm/ops/ascend.py").read_text()}
    assert called == set(NAMES)
    assert {name for name in checks if name.startswith("ascend.")} == {
        "ascend.rms_norm",
        "ascend.swiglu",
        "ascend.rotary",
        "ascend.flash",
        "ascend.flash_packed",
    }


def test_numbers_are_recorded_for_known_checks_alone(checks):
    assert {name.partition("/")[0] for name in recorded()} <= set(checks)
    assert {key("gradients", "loss"), key("network", "layer 2")} <= set(recorded())
