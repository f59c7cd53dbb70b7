"""An engine over the NumPy network."""

from __future__ import annotations

import pytest
from numpy_network import NumpyNetwork
from reference import Reference

from mindformers_glm import runtime
from mindformers_glm.generation.engine import Engine
from mindformers_glm.ops.kernels import library


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
    """With the processor's kernels, and with MindSpore's operators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLM_KERNELS", request.param)
        assert (library.library() is None) == (request.param == "off")
        yield request.param


@pytest.fixture(scope="session")
def glm2(golden, kernels) -> Reference:
    """ChatGLM2, tiny."""
    return Reference(golden / "hf_glm2_tiny")


@pytest.fixture(scope="session")
def glm3(golden, kernels) -> Reference:
    """ChatGLM3, tiny."""
    return Reference(golden / "hf_glm3_tiny")
