"""One server over a network that two processes share: started by itself, and by msrun."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import ROOT, ServerProcess
from waiting import until

from mindformers_glm.config.names import ASSETS

pytestmark = [
    pytest.mark.dist,
    pytest.mark.slow,
    pytest.mark.skipif(not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="no weights of glm2_tiny"),
]
SERVE = ("-m", "mindformers_glm", "serve", "--model", "glm2_tiny", "--port", "0")
PROMPTS = ["你好", "类型#裤*颜色#黑色", "今天", "一"]


def answers(address: str) -> list[str]:
    """To requests side by side, the last of them streamed."""
    import concurrent.futures

    def ask(prompt):
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
        return httpx.post(f"{address}/v1/completions", json=body, timeout=120).json()["choices"][0]["text"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, PROMPTS))


@pytest.fixture(scope="module")
def expected(tiny):
    return answers(tiny.address)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_rank_0_serves_what_one_process_says_and_all_end_together(expected):
    server = ServerProcess(*SERVE, "--tp_size", "2")
    others = children(server.process.pid)
    try:
        assert answers(server.address) == expected
        body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 6, "temperature": 0, "stream": True}
        lines = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=120).text
        assert lines.endswith("data: [DONE]\n\n")
    finally:
        assert server.stop() == 0
    assert len(others) >= 2 and not any(Path(f"/proc/{pid}").exists() for pid in others)


def test_a_rank_that_dies_ends_the_server_in_one_line(expected):
    server = ServerProcess(*SERVE, "--tp_size", "2")
    rank = next(
        pid for pid in children(server.process.pid) if b"RANK_ID=1" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    assert answers(server.address) == expected
    os.kill(rank, signal.SIGKILL)
    assert server.process.wait(timeout=30) == 1
    assert any(re.search(r"serve: rank 1 .*has ended; the server cannot go on", line) for line in server.output)


def test_a_rank_that_dies_while_loading_is_noticed_and_what_is_wrong_everywhere_is_told_once(tmp_path):
    words = [sys.executable, *SERVE, "--tp_size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    rank = None
    while rank is None:
        assert server.poll() is None
        started = children(server.pid)
        rank = next((pid for pid in started if b"RANK_ID=1" in Path(f"/proc/{pid}/environ").read_bytes()), None)
    os.kill(rank, signal.SIGKILL)
    output = server.communicate(timeout=120)[0]
    assert server.returncode != 0
    assert re.search(r"rank 1.* has ended, and this command cannot go on without it", output), output

    words[words.index("glm2_tiny")] = str(tmp_path / "nowhere")
    wrong = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert wrong.returncode != 0 and "cannot go on" not in wrong.stderr
    assert "nowhere" in wrong.stderr


def test_msrun_starts_it(expected, tmp_path):
    msrun = shutil.which("msrun", path=str(Path(sys.executable).parent))
    if msrun is None:
        pytest.skip("there is no msrun")
    with httpx.Client(timeout=120) as http:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free:
            scheduler = free.getsockname()[1]
        words = [msrun, "--worker_num=2", "--local_worker_num=2", f"--master_port={scheduler}", "--log_dir=logs"]
        words += ["--join=True", "--tail_worker_log=0"]
        words += ["python", *SERVE[:-1], str(port), "--tp_size", "2", "--admin_key", "boss"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        started = subprocess.Popen(
            [sys.executable, *words], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"

            def is_ready():
                assert started.poll() is None
                with contextlib.suppress(httpx.HTTPError):
                    return http.get(f"{address}/ready").status_code == 200

            until(is_ready, seconds=180)
            assert answers(address) == expected
            assert http.post(f"{address}/stopService", headers={"Authorization": "Bearer boss"}).status_code == 200
            assert started.wait(timeout=60) == 0  # all ranks ended by themselves
        finally:
            if started.poll() is None:
                started.terminate()  # ends its workers
                started.wait()
