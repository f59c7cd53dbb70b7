"""An engine over the NumPy network."""

from __future__ import annotations

import pytest
from numpy_network import NumpyNetwork

from mindformers_glm.generation.engine import Engine


@pytest.fixture
def network() -> NumpyNetwork:
    return NumpyNetwork()


@pytest.fixture
def engine(network):
    engine = Engine(network)
    yield engine
    engine.close()
