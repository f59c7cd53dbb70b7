"""An engine over the NumPy network."""

from __future__ import annotations

import pytest
from numpy_network import NumpyNetwork
from reference import Reference

from mindformers_glm import runtime
from mindformers_glm.generation.engine import Engine


@pytest.fixture(autouse=True)
def _graph_mode():
    runtime.set_up({"mode": 0, "device_target": "CPU"})


@pytest.fixture
def network() -> NumpyNetwork:
    return NumpyNetwork()


@pytest.fixture
def engine(network):
    engine = Engine(network)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def glm2(golden) -> Reference:
    """ChatGLM2, tiny."""
    return Reference(golden / "hf_glm2_tiny")


@pytest.fixture(scope="session")
def glm3(golden) -> Reference:
    """ChatGLM3, tiny."""
    return Reference(golden / "hf_glm3_tiny")
