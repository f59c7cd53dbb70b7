"""Two servers behind a router that nobody here wrote, one of them killed again and again under load."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from environments import ROUTER, python_of
from server_process import ServerProcess
from waiting import until

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
KILLS, CLIENTS = 20, 8


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def answers(address: str) -> bool:
    body = {"messages": [{"role": "user", "content": "x"}]}
    with contextlib.suppress(httpx.HTTPError):
        return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=10).status_code == 200
    return False


def is_well(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    return False


def vllm_router(root: Path, folder: Path, ports: list[int], port: int) -> list[str]:
    """With the options of scripts/serve.sh."""
    python = Path(python_of(ROUTER))
    script = (root / "scripts/serve.sh").read_text()
    options = re.search(r"^ROUTER_OPTIONS=\((.*?)\)$", script, re.M | re.S).group(1).split()
    urls = [f"http://127.0.0.1:{own}" for own in ports]
    words = [str(python.parent / "vllm-router"), "--worker-urls", *urls, "--policy", "cache_aware", *options]
    return [*words, "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]


def nginx(root: Path, folder: Path, ports: list[int], port: int) -> list[str]:
    """With the lines of docs/serving.md."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not found:
        pytest.skip("there is no nginx")
    lines = re.findall(r"^    ((?:upstream|server) .*)$", (root / "docs/serving.md").read_text(), re.M)
    text = "\n".join(lines).replace("8001", str(ports[0])).replace("8002", str(ports[1]))
    text = text.replace("listen 8000", f"listen 127.0.0.1:{port}")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}\n}}\n"
    )
    return [found, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


class Client(threading.Thread):
    """Asks for something else each time, streamed or whole, until it is told to stop; counts how that ended."""

    def __init__(self, address: str, number: int, stopping: threading.Event) -> None:
        super().__init__(daemon=True)
        self.client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0, timeout=60)
        self.number, self.stopping = number, stopping
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.longest = 0.0

    def run(self) -> None:
        draw, turn = random.Random(self.number), 0
        while not self.stopping.is_set():
            turn += 1
            said = f"{self.number}-{turn} " + "".join(draw.choices("天地玄黄宇宙洪荒 abc", k=draw.randint(5, 200)))
            begin = time.monotonic()
            try:
                found = self._ask(said.strip(), stream=turn % 2 == 0)
            except (openai.APIError, httpx.HTTPError) as error:
                self.counts["failed"] += 1
                self.faults.append(f"{type(error).__name__}: {str(error)[:120]}")
                time.sleep(0.02)
            else:
                self.counts["right" if found == said.strip() else "WRONG"] += 1
            self.longest = max(self.longest, time.monotonic() - begin)

    def _ask(self, said: str, *, stream: bool) -> str:
        messages = [{"role": "user", "content": "say " + json.dumps(said, ensure_ascii=False)}]
        reply = self.client.chat.completions.create(model="parrot", messages=messages, stream=stream)
        if not stream:
            return reply.choices[0].message.content
        pieces, reason = [], None
        for chunk in reply:
            pieces.append(chunk.choices[0].delta.content or "")
            reason = chunk.choices[0].finish_reason or reason
        if reason is None:
            raise httpx.RemoteProtocolError("the stream ended before the answer")
        return "".join(pieces)


def serve(port: int) -> ServerProcess:
    return ServerProcess(str(HERE / "parrot_server.py"), "--port", str(port))


@pytest.mark.parametrize("front", [vllm_router, nginx])
def test_a_killed_server_costs_each_request_at_most_one_clear_error(front, root, tmp_path):
    ports, port, draw = [free_port(), free_port()], free_port(), random.Random(5)
    words = front(root, tmp_path, ports, port)
    servers = [serve(own) for own in ports]
    log = (tmp_path / "front.log").open("w")
    router = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address, stopping = f"http://127.0.0.1:{port}", threading.Event()
    clients = [Client(address, number, stopping) for number in range(CLIENTS)]
    try:
        until(lambda: answers(address))
        for client in clients:
            client.start()
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.3, 1.5))
            place = draw.randrange(2)
            servers[place].process.send_signal(signal.SIGKILL)
            servers[place].process.wait()
            time.sleep(draw.uniform(0, 0.5))
            servers[place] = serve(ports[place])
            until(lambda own=ports[place]: is_well(own))
            time.sleep(2.5)  # the router looks every second, and gives a server that failed two seconds of rest
        stopping.set()
        for client in clients:
            client.join(65)
        assert not any(client.is_alive() for client in clients)
        counts = sum((client.counts for client in clients), Counter())
        longest = max(client.longest for client in clients)
        faults = Counter(fault for client in clients for fault in client.faults)
        print(f"{front.__name__}: {dict(counts)}, longest {longest:.1f} s; {dict(faults)}")
        assert counts["WRONG"] == 0 and longest < 60
        assert counts["right"] > 20 * counts["failed"] > 0
        assert not any("Timeout" in fault for fault in faults)
        until(lambda: answers(address))
    finally:
        stopping.set()
        os.killpg(router.pid, signal.SIGKILL)
        router.wait()
        for server in servers:
            server.stop()


def test_the_script_starts_servers_and_router_and_brings_back_one_that_dies(root, tmp_path):
    python, port = Path(python_of(ROUTER)), free_port()
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHON": sys.executable}
    environment |= {"PYTHONPATH": str(root), "ROUTER_PROMETHEUS_PORT": str(free_port())}
    log = tmp_path / "serve.log"
    words = ["bash", str(root / "scripts/serve.sh"), "glm2_tiny", "[0,2]", str(port), "--max_num_seqs", "4"]
    with log.open("w") as out:
        script = subprocess.Popen(words, stdout=out, stderr=out, env=environment, cwd=tmp_path)
    try:
        ask = {"model": "glm2_tiny", "prompt": "你好", "max_tokens": 8, "temperature": 0}
        urls = [f"http://127.0.0.1:{port + place}" for place in range(3)]

        def text(url):
            with contextlib.suppress(httpx.HTTPError):
                reply = httpx.post(f"{url}/v1/completions", json=ask, timeout=30)
                return reply.json()["choices"][0]["text"] if reply.status_code == 200 else None

        for url in urls:
            until(lambda url=url: text(url), seconds=180)
        assert len({text(url) for url in urls}) == 1
        pids = subprocess.run(
            ["pgrep", "-f", f"mindformers_glm serve .*--port {port + 1}"], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(pids[-1]), signal.SIGKILL)
        until(lambda: text(urls[0]))
        until(lambda: "started again" in log.read_text())
        until(lambda: text(urls[1]), seconds=180)
    finally:
        script.terminate()
        assert script.wait(timeout=90) == 0
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{urls[1]}/health", timeout=2)
