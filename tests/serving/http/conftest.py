"""Servers that tests share: one with glm2_tiny, one that answers from a script."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from server_process import ServerProcess  # noqa: E402

from mindformers_glm.config.names import ASSETS  # noqa: E402

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def parrot():
    server = ServerProcess(str(HERE / "parrot_server.py"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny():
    if not (ASSETS / "glm2_tiny" / "model.safetensors").is_file():
        pytest.skip("glm2_tiny's weights are missing")
    server = ServerProcess("-m", "mindformers_glm", "serve", "--model", "glm2_tiny", "--port", "0")
    yield server
    server.stop()


@pytest.fixture
def http(parrot):
    with httpx.Client(base_url=parrot.address, timeout=60) as client:
        yield client
