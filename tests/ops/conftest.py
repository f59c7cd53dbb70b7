"""Every test of this folder starts in graph mode on the CPU; kernels have two threads where there are two CPUs."""

import pytest
from mindspore_modes import graph_mode, mode, pynative  # noqa: F401


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch):
    """Whatever share of the machine a worker has (tests/conftest.py)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
