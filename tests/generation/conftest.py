"""An engine over the NumPy network."""

from __future__ import annotations

from pathlib import Path

import pytest
from numpy_network import NumpyNetwork
from reference import Reference

from mindformers_glm import runtime
from mindformers_glm.generation.engine import Engine


@pytest.fixture(autouse=True)
def _graph_mode(request, monkeypatch):
    runtime.set_up({"mode": 0, "device_target": "CPU"})
    uses = "kernels" in request.fixturenames
    monkeypatch.setenv("GLM_KERNELS", request.getfixturevalue("kernels") if uses else "auto")


@pytest.fixture
def network() -> NumpyNetwork:
    return NumpyNetwork()


@pytest.fixture
def engine(network):
    engine = Engine(network)
    yield engine
    engine.close()


@pytest.fixture(scope="session", params=["auto", "off"], ids=["kernels", "formulas"])
def kernels(request) -> str:
    """With the CPU's kernels, and with MindSpore's operators; `_graph_mode` sets it for the test."""
    return request.param


def reference(folder: Path, kernels: str) -> Reference:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLM_KERNELS", kernels)
        return Reference(folder)


@pytest.fixture(scope="session")
def glm2(golden, kernels) -> Reference:
    """ChatGLM2, tiny."""
    return reference(golden / "hf_glm2_tiny", kernels)


@pytest.fixture(scope="session")
def glm3(golden, kernels) -> Reference:
    """ChatGLM3, tiny."""
    return reference(golden / "hf_glm3_tiny", kernels)
