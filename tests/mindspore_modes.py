"""Fixtures of MindSpore's modes, for the conftest.py of folders whose tests build Cells."""

from __future__ import annotations

import mindspore as ms
import pytest

from mindformers_glm import runtime


@pytest.fixture(autouse=True)
def graph_mode():
    """A test starts in graph mode on the CPU."""
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Runs the test in both modes of MindSpore."""
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    return request.param


@pytest.fixture
def pynative():
    """For tests whose point is not the compiled graph: nothing is compiled."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
