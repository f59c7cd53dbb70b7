"""What tests of the kit share."""

from __future__ import annotations

import pytest

from mindformers_glm.conformance.check import all_checks
from mindformers_glm.conformance.device import pynative
from mindformers_glm.conformance.outcome import judge
from mindformers_glm.conformance.recorded import recorded
from mindformers_glm.conformance.worker import SKIPPED, compute


@pytest.fixture(scope="session")
def checks():
    """Every check by name."""
    return all_checks()


@pytest.fixture
def outcomes(checks):
    """Runs checks by name in this process, operator by operator: the outcomes of those that were not skipped."""

    def run(*names):
        found = []
        with pynative():
            for name in names:
                kind = checks[name].kinds[0]
                answer = compute(checks[name], kind)
                if answer[0] != SKIPPED:
                    assert not isinstance(answer[0], str), (name, answer)
                    found.append(judge(checks[name], kind, answer, recorded()))
        return found

    return run
