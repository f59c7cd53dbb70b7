import lite_environment
import pytest

from mindformers_glm import runtime


@pytest.fixture(scope="session")
def lite_python():
    return lite_environment.require()


@pytest.fixture(scope="module", autouse=True)
def _cpu():
    runtime.set_up({"mode": 0, "device_target": "CPU"})
