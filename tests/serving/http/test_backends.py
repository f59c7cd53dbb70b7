"""The same answers whatever computes: C++ kernels, MindSpore's graphs, an export in MindSpore Lite."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys

import httpx
import lite_environment
import pytest
from server_process import ROOT, ServerProcess

from mindformers_glm.cli.console import main
from mindformers_glm.config.names import ASSETS

pytestmark = pytest.mark.skipif(
    not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="glm2_tiny's weights are missing"
)
PROMPTS = ["你好", "类型#裤*颜色#黑色", "今天天气", "一"]


def answers(address: str) -> list[str]:
    def ask(prompt):
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
        return httpx.post(f"{address}/v1/completions", json=body, timeout=300).json()["choices"][0]["text"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, PROMPTS))


def served(*words: str) -> list[str]:
    server = ServerProcess("-m", "mindformers_glm", "serve", "--port", "0", *words, patience=300)
    try:
        return answers(server.address)
    finally:
        assert server.stop() == 0


@pytest.mark.slow
def test_graphs_answer_as_kernels_do(tiny):
    assert served("--model", "glm2_tiny", "--backend", "graph") == answers(tiny.address)


@pytest.mark.slow
def test_a_smaller_cache_of_bounded_size_still_answers_everybody(tiny):
    words = ("--backend", "kernels", "--cache_dtype", "float16", "--cache_tokens", "256", "--max_num_seqs", "8")
    found = served("--model", "glm2_tiny", *words)
    assert len(found) == len(PROMPTS) and all(found)


@pytest.mark.slow
def test_an_export_answers_as_its_network_does(tiny, tmp_path):
    python = lite_environment.require()
    words = [sys.executable, "-m", "mindformers_glm", "export"]
    words += ["--config_path", str(ROOT / "configs/tiny/export_glm2_tiny.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert served(
        "--model", str(tmp_path / "glm2_tiny_export"), "--backend", "lite", "--lite_python", python
    ) == answers(tiny.address)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--quantization_bit", "4"], "--quantization_bit"),
        (["--adapter", "a=b"], "--adapter"),
        (["--cache_tokens", "5"], "--cache_tokens"),
        (["--max_num_batched_tokens", "64"], "--max_num_batched_tokens"),
        (["--tp_size", "2"], "--tp_size"),
    ],
)
def test_what_an_export_cannot_follow_is_refused_by_name(words, named, capsys, monkeypatch):
    monkeypatch.setattr("mindformers_glm.cli.serve.start", lambda *given: None)  # no processes for --tp_size
    assert main(["serve", "--model", "nowhere", "--backend", "lite", "--port", "0", *words]) == 2
    assert named in capsys.readouterr().err


def test_an_interpreter_without_an_export_is_refused(capsys):
    assert main(["serve", "--model", "nowhere", "--port", "0", "--lite_python", "python"]) == 2
    assert "--lite_python" in capsys.readouterr().err
