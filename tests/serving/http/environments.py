"""Environments of their own for clients and routers that nobody here wrote, which the project itself does not install.

Each is named by a variable. Where it is not, and $GLM_ENVIRONMENTS names a folder, it is made there once (from the
package registry); otherwise the test is skipped and says both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = "GLM_ENVIRONMENTS"
CLIENTS = (
    "GLM_CLIENTS_PYTHON",
    "clients",
    ["lm_eval[api]>=0.4.9", "langchain-openai", "openai", "schemathesis>=4", "selenium>=4"],
)
ROUTER = ("GLM_ROUTER_PYTHON", "router", ["vllm-router>=0.1.17"])
LLAMA = ("GLM_LLAMA_PYTHON", "llama", ["llama-cpp-python[server]"])
FASTCHAT = (  # its streams fail with pydantic 2, and its own dependencies would bring torch
    "GLM_FASTCHAT_PYTHON",
    "fastchat",
    ["pydantic<2", "fastapi<0.100", "uvicorn", "requests", "numpy", "aiohttp", "httpx", "shortuuid", "tiktoken"],
)


def python_of(environment: tuple[str, str, list[str]], *alone: str) -> str:
    """The Python of an environment; `alone` are packages to be installed without what they depend on."""
    variable, name, packages = environment
    if os.environ.get(variable):
        return os.environ[variable]
    folder = _folder(variable)
    python = folder / name / "bin/python"
    if not (folder / name / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        for words in ([*packages], ["--no-deps", *alone] if alone else []):
            if words:
                subprocess.run([*install, *words], check=True)
        (folder / name / "complete").touch()
    return str(python)


def node_modules() -> Path:
    """A folder whose `node_modules` holds the npm package `openai`."""
    if not shutil.which("node"):
        pytest.skip("there is no node")
    if os.environ.get("GLM_NODE_FOLDER"):
        return Path(os.environ["GLM_NODE_FOLDER"])
    folder = _folder("GLM_NODE_FOLDER") / "node"
    if not (folder / "node_modules/openai").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--silent", "openai"], cwd=folder, check=True)
    return folder


def _folder(variable: str) -> Path:
    if not os.environ.get(FOLDER):
        pytest.skip(f"neither ${variable} names an environment nor ${FOLDER} a folder to make it in")
    return Path(os.environ[FOLDER])
