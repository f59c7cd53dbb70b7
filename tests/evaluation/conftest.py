"""Graph mode on the CPU."""

from __future__ import annotations

import pytest

from mindformers_glm import runtime


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.set_up({"mode": 0, "device_target": "CPU"})
