#!/usr/bin/env python3
"""Measures the server: load with clients that misbehave, overhead of HTTP, start and memory.

    python tools/measure_serving.py load --minutes 15                     # 64 clients at glm2_tiny
    python tools/measure_serving.py load --minutes 5 --model shape --quantization_bit 8
    python tools/measure_serving.py overhead start                        # measure_serving_peer.py: llama.cpp beside it

`--model shape` is a network of 288 million random weights (12 layers of 1,024, 65,024 ids). load: each greedy answer
must be the one that the same request got alone; 20 % of the requests are cancelled in their stream, 5 % cut off without
a word, 1 % are hostile. Every figure is of one server process on this machine; clients run on it too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {
    "num_layers": 12, "padded_vocab_size": 65024, "hidden_size": 1024, "ffn_hidden_size": 3424, "kv_channels": 64,
    "num_attention_heads": 16, "multi_query_group_num": 2, "seq_length": 2048, "param_init_type": "float32",
    "compute_dtype": "float32", "layernorm_compute_type": "float32",
}  # fmt: skip
HOSTILE = [
    b"", b"{", b"[]", b"null", b'{"prompt": 5}', b'{"prompt": [99999999]}', b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "temperature": 1e999}', b"[" * 5000, b"\xff\xfe\x00",
    b'{"prompt": "a", "n": 100000}', b'{"prompt": "a", "logit_bias": {"x": 1}}', b'{"messages": []}',
    b'{"prompt": "a", "response_format": {"type": "json_schema"}}', b'{"prompt": "a", "seed": {"$ref": "#"}}',
]  # fmt: skip
TOO_LONG = b'{"prompt": "' + b"a" * 200_000 + b'"}'  # for an answer; its tokens can be told


class Server:
    """A server process of ours or of another kind, and what it uses."""

    def __init__(self, words: list[str], port: int | None = None) -> None:
        self.begin = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        self.address = "" if port is None else f"http://127.0.0.1:{port}"
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        while not self._is_ready():
            if self.process.poll() is not None:
                raise SystemExit("the server ended:\n" + "".join(self.log[-30:]))
            time.sleep(0.01)
        self.seconds = time.perf_counter() - self.begin

    def _read(self) -> None:
        for line in self.process.stdout or []:
            self.log.append(line.decode(errors="replace"))

    def _is_ready(self) -> bool:
        if not self.address:
            found = re.search(r"serving .* at (http://\S+) ", "".join(self.log))
            self.address = found.group(1) if found else ""
            return bool(found)
        try:
            return httpx.get(f"{self.address}/v1/models", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def memory(self) -> float:
        """Resident MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def cpu(self) -> float:
        """Seconds of CPU so far, all threads together: what is left of a figure on a machine that is busy."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Drains it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


def ours(chosen: argparse.Namespace, *more: str) -> Server:
    """Our server on the model that was chosen."""
    model = chosen.model
    if model in ("shape", "long shape"):
        file = Path(tempfile.mkdtemp()) / "shape.yaml"
        network = {"type": "ChatGLM2Config", **SHAPE, "seq_length": 4096 if model == "long shape" else 2048}
        shared = Path(os.environ.get("GLM_SHARED") or ROOT.parent / "shared")
        vocabulary = Path(chosen.tokenizer or shared / "data/tokenizer/chatglm2-6b/tokenizer.model").resolve()
        if not vocabulary.is_file():
            raise SystemExit(f"--tokenizer: {vocabulary} is no file. Name a tokenizer.model of 65,024 ids")
        tokenizer = {"type": "ChatGLM2Tokenizer", "vocab_file": str(vocabulary)}
        text = {
            "run_mode": "predict",
            "allow_random_weights": True,
            "model": {"model_config": network, "arch": {"type": "ChatGLM2ForConditionalGeneration"}},
            "processor": {"type": "GLMProcessor", "tokenizer": tokenizer},
        }
        file.write_text(json.dumps(text))
        model = str(file)
    words = [sys.executable, "-m", "mindformers_glm", "serve", "--model", model, "--port", "0", *more]
    words += ["--served_model_name", "model"]
    return Server(words + (["--quantization_bit", str(chosen.quantization_bit)] if chosen.quantization_bit else []))


# --- load ----------------------------------------------------------------------------------------------------------


class Load:
    """Clients, and what became of their requests."""

    def __init__(self, server: Server, chosen: argparse.Namespace) -> None:
        self.server, self.chosen, self.draw = server, chosen, random.Random(11)
        self.counts: Counter[str] = Counter()
        self.first: list[float] = []
        self.between: list[float] = []
        self.wrong: list[tuple[dict[str, Any], str]] = []
        longest = 400 if chosen.model == "shape" else 180
        self.requests = [self._request(longest) for _ in range(chosen.kinds)]
        self.expected: list[str] = []
        self.tokens = 0

    def _request(self, longest: int) -> dict[str, Any]:
        length = int(longest ** self.draw.random()) + 1
        prompt = [self.draw.randrange(300, 1000) for _ in range(length)]
        return {"prompt": prompt, "max_tokens": self.draw.randint(1, 60), "temperature": 0, "ignore_eos": True}

    async def run(self) -> dict[str, Any]:
        """The figures."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
        async with httpx.AsyncClient(base_url=self.server.address, timeout=120, limits=limits) as http:
            for request in self.requests:
                self.expected.append((await http.post("/v1/completions", json=request)).json()["choices"][0]["text"])
            begin, idle = time.monotonic(), self.server.memory()
            end, levels = begin + 60 * self.chosen.minutes, [idle]
            clients = [asyncio.create_task(self._client(http, end, place)) for place in range(self.chosen.clients)]
            while time.monotonic() < end:
                await asyncio.sleep(min(10, max(end - time.monotonic(), 0.1)))
                levels.append(self.server.memory())
            await asyncio.wait_for(asyncio.gather(*clients), 180)
            seconds = time.monotonic() - begin
            full = await self._burst(http)
            await asyncio.sleep(1)
            told = (await http.get("/metrics")).text
            ties = [await self._is_tie(http, request, found) for request, found in self.wrong]
        left = {
            name: float(re.search(rf"^{name}{{.*}} (\S+)$", told, re.M).group(1))  # type: ignore[union-attr]
            for name in ("vllm:num_requests_running", "vllm:num_requests_waiting")
        }
        quarter = max(1, len(levels) // 4)
        return {
            "model": f"{self.chosen.model} {self.chosen.quantization_bit or 'float32'}",
            "seconds": round(seconds),
            **dict(self.counts),
            "differs, and is a tie": sum(ties),
            "WRONG": len(ties) - sum(ties),
            "tokens/s": round(self.tokens / seconds, 1),
            "first token ms p50 p99": _pair(self.first),
            "between tokens ms p50 p99": _pair(self.between),
            "MB idle, first quarter, last quarter": [
                round(idle),
                round(max(levels[:quarter])),
                round(max(levels[-quarter:])),
            ],
            "429 in a burst": full,
            "left over": sum(left.values()),
        }

    async def _client(self, http: httpx.AsyncClient, end: float, place: int) -> None:
        draw = random.Random(place)
        while time.monotonic() < end:
            chance, number = draw.random(), draw.randrange(len(self.requests))
            try:
                if chance < 0.01:
                    path = draw.choice(["/v1/completions", "/v1/chat/completions", "/tokenize"])
                    bodies = HOSTILE if path == "/tokenize" else [*HOSTILE, TOO_LONG]
                    reply = await http.post(path, content=draw.choice(bodies))
                    self.counts["hostile refused" if 400 <= reply.status_code < 500 else "HOSTILE NOT REFUSED"] += 1
                elif chance < 0.06:
                    await self._cut_off(number, draw)
                elif chance < 0.26:
                    await self._ask(http, number, stop_after=draw.randint(0, 20))
                else:
                    await self._ask(http, number)
            except httpx.HTTPError as error:
                self.counts[f"FAILED {type(error).__name__}"] += 1

    async def _ask(self, http: httpx.AsyncClient, number: int, *, stop_after: int | None = None) -> None:
        request = self.requests[number]
        last = time.perf_counter()
        found, tokens, finish = "", 0, None
        async with http.stream("POST", "/v1/completions", json={**request, "stream": True, "logprobs": 0}) as reply:
            if reply.status_code == 429:
                self.counts["429"] += 1
                await asyncio.sleep(0.2)
                return
            if reply.status_code != 200:
                self.counts[f"FAILED {reply.status_code}"] += 1
                return
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                choice = json.loads(line[6:])["choices"][0]
                found, finish, now = found + choice["text"], choice["finish_reason"], time.perf_counter()
                if choice["logprobs"] is not None:
                    (self.between if tokens else self.first).append(now - last)
                    tokens, last = tokens + 1, now
                if stop_after is not None and tokens > stop_after and finish is None:
                    self.counts["cancelled"] += 1
                    self.tokens += tokens
                    return
        self.tokens += tokens
        if finish is None:
            self.counts["LOST"] += 1
        elif found != self.expected[number]:
            self.wrong.append((request, found))
        else:
            self.counts["right"] += 1

    async def _cut_off(self, number: int, draw: random.Random) -> None:
        """A client that goes away: at once, in its body, or in the answer."""
        host, port = self.server.address[7:].split(":")
        body = json.dumps({**self.requests[number], "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection(host, int(port))
        sent = head + body
        writer.write(sent[: draw.choice([0, 10, len(head) + len(body) // 2, len(sent), len(sent)])])
        await writer.drain()
        await asyncio.sleep(draw.uniform(0, 0.2))
        writer.transport.abort()
        self.counts["cut off"] += 1

    async def _burst(self, http: httpx.AsyncClient) -> dict[str, int]:
        """More at once than the queue holds: what is refused says when to come again."""
        request = {**self.requests[0], "max_tokens": 20}
        replies = await asyncio.gather(*(http.post("/v1/completions", json=request) for _ in range(240)))
        told = Counter(str(reply.status_code) for reply in replies)
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 429)
        return dict(told)

    async def _is_tie(self, http: httpx.AsyncClient, request: dict[str, Any], found: str) -> bool:
        """Whether an answer leaves the expected one where two tokens are equally good, as near as sums are exact."""
        asked = {**request, "logprobs": 2}
        told = (await http.post("/v1/completions", json=asked)).json()["choices"][0]
        said = ""
        for word, best in zip(told["logprobs"]["tokens"], told["logprobs"]["top_logprobs"], strict=True):
            if not found.startswith(said + word):
                values = sorted(best.values(), reverse=True)
                return values[0] - values[1] < 2e-3
            said += word
        return False


def _pair(seconds: list[float]) -> list[float]:
    found = sorted(seconds)
    return [round(1000 * found[int(len(found) * share)], 1) for share in (0.5, 0.99)] if found else []


def measure_load(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A server under load."""
    server = ours(chosen, "--max_queue", str(max(64, chosen.clients)))
    try:
        return [asyncio.run(Load(server, chosen).run())]
    finally:
        server.stop()


# --- overhead, start -----------------------------------------------------------------------------------------------

_ENGINE = """
import json, os, sys, time
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.serving.loading import load
engine = load("glm2_tiny", engine={"max_num_seqs": 16}).engine
config = GenerationConfig(max_new_tokens=200, eos_token_id=[])
rates = []
for _ in range(4):
    begin, cpu = time.perf_counter(), sum(os.times()[:2])
    tickets = [engine.submit([300 + row] * 8, config) for row in range(16)]
    tokens = sum(len(ticket.results()[0].ids) for ticket in tickets)
    rates.append(((time.perf_counter() - begin) / tokens, (sum(os.times()[:2]) - cpu) / tokens))
print(json.dumps([min(column) for column in zip(*rates[1:])]))
"""


async def _streams(address: str, count: int, tokens: int) -> float:
    """Seconds for each token of so many streams at once; the bytes are read and nothing else is done with them."""

    async def one(row: int) -> None:
        host, port = address[7:].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        asked = {"prompt": [300 + row] * 8, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        body = json.dumps(asked).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        while await reader.read(65536):
            continue
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one(row) for row in range(count)))
    return (time.perf_counter() - begin) / (count * tokens)


def measure_overhead(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds that HTTP, JSON and SSE add to each token of 16 streams, by the clock and of CPU."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    done = subprocess.run([sys.executable, "-c", _ENGINE], capture_output=True, text=True, env=environment, check=True)
    bare = json.loads(done.stdout.splitlines()[-1])
    server = ours(argparse.Namespace(model="glm2_tiny", quantization_bit=None))
    try:
        rounds = []
        for _ in range(4):
            cpu = server.cpu()
            rounds.append((asyncio.run(_streams(server.address, 16, 200)), (server.cpu() - cpu) / 3200))
        served = [min(column) for column in zip(*rounds[1:], strict=True)]
    finally:
        server.stop()
    rows = []
    for kind, mine, whole in zip(("wall", "CPU"), bare, served, strict=True):
        told = {"engine": mine, "server": whole, "overhead": whole - mine}
        rows.append({"time": kind, **{f"{name} ms a token": round(1000 * value, 3) for name, value in told.items()}})
    return rows


def measure_start(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from the command to the line that it serves, and resident memory before and after one answer."""
    rows = []
    for _ in range(3):
        server = ours(chosen)
        idle, cpu = server.memory(), server.cpu()
        httpx.post(f"{server.address}/v1/completions", json={"prompt": "\u4f60", "max_tokens": 8}, timeout=60)
        rows.append(
            {
                "ready s": round(server.seconds, 2),
                "CPU s": round(cpu, 2),
                "idle MB": round(idle),
                "after an answer MB": round(server.memory()),
            }
        )
        server.stop()
    return rows


FAULTS = ("WRONG", "LOST", "FAILED", "HOSTILE")  # first words of counts that must be 0
PARTS = {"load": measure_load, "overhead": measure_overhead, "start": measure_start}


def main(argv: list[str] | None = None) -> int:
    """Measures and prints a JSON line for each row; 1 when an answer was lost, wrong or unclear."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="+", choices=list(PARTS))
    p.add_argument("--model", default="glm2_tiny", help="what serve takes, or `shape`")
    p.add_argument("--quantization_bit", type=int, choices=(4, 8))
    p.add_argument("--tokenizer", help="tokenizer.model of 65,024 ids for `--model shape` (that of ../shared)")
    p.add_argument("--minutes", type=float, default=15)
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--kinds", type=int, default=200, help="different requests under load")
    chosen = p.parse_args(argv)
    bad = False
    for what in chosen.what:
        for row in PARTS[what](chosen):
            print(json.dumps({"what": what, **row}, ensure_ascii=False), flush=True)
            bad |= any(value and name.split()[0] in FAULTS for name, value in row.items())
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
