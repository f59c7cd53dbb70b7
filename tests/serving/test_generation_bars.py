"""Figures of generation at true depth and vocabulary. Times count only on a machine with nothing else to do."""

from __future__ import annotations

import importlib.util
import os

import pytest

pytestmark = pytest.mark.slow
QUIET = 1.5  # load of the machine, this test included, above which times say nothing


@pytest.fixture(scope="module")
def tool(root):
    spec = importlib.util.spec_from_file_location("measure_generation", root / "tools" / "measure_generation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require_quiet() -> None:
    load = os.getloadavg()[0]
    if load > QUIET:
        pytest.skip(f"the machine is busy (load {load:.1f}): times say nothing")


def test_nothing_is_compiled_again_in_200_requests(tool):
    (row,) = tool.measure("compile")
    assert (row["layers"], row["requests"], row["compiled again"]) == (28, 200, 0)


def test_memory_of_a_long_prompt_is_linear(tool):
    peaks = [row["peak MB"] for row in tool.measure("memory")]
    steps = [later - before for before, later in zip(peaks, peaks[1:], strict=False)]  # over 1k, 2k and 4k tokens
    assert peaks[-1] < 9 * max(peaks[0], 10.0)
    assert steps[2] < 2.5 * max(steps[1], 10.0)


def test_the_first_token_comes_soon(tool):
    require_quiet()
    cold, warm = (row["seconds to first token"] for row in tool.measure("start"))
    assert cold < 10
    assert warm < 5
