#!/usr/bin/env python3
"""Measures our server and llama-cpp-python's in turn on one shape and type: 288 million random weights, 2 threads.

    python tools/measure_serving_peer.py ENV/bin/python --bits 8          # ENV has llama-cpp-python[server] and gguf
    python tools/measure_serving_peer.py ENV/bin/python --bits 8 --mixed  # prompts of 128 to 2,048 tokens

Tokens per second of 1, 4 and 16 clients together, prompts of 128 tokens and answers of 64; a JSON line for each. With
`--mixed` 16 clients, prompts of 128 to 2,048 tokens and answers of 64 to 256, and how long ours make each client wait
between tokens (each token's event on its own, as the client reads them).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from measure_serving import Server, ours

_GGUF = """
import ctypes, sys, gguf, llama_cpp, numpy as np
base, path, kind = sys.argv[1:4]
vocab, h, layers, heads, groups, ffn = 65024, 1024, 12, 16, 2, 3424
d, rng = h // heads, np.random.default_rng(0)
w = gguf.GGUFWriter(base, "chatglm")
w.add_context_length(2048), w.add_embedding_length(h), w.add_feed_forward_length(ffn), w.add_block_count(layers)
w.add_head_count(heads), w.add_head_count_kv(groups), w.add_layer_norm_rms_eps(1e-5)
w.add_rope_dimension_count(d // 2), w.add_rope_freq_base(10000.0), w.add_file_type(0), w.add_vocab_size(vocab)
w.add_tokenizer_model("llama"), w.add_add_bos_token(False), w.add_bos_token_id(1), w.add_eos_token_id(2)
words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(f"w{i}" for i in range(259, vocab))]
w.add_token_list(words), w.add_token_scores([0.0] * vocab)
w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - 259))
r = lambda *s: rng.standard_normal(s, dtype=np.float32) * 0.02
w.add_tensor("token_embd.weight", r(vocab, h)), w.add_tensor("output.weight", r(vocab, h))
w.add_tensor("output_norm.weight", np.ones(h, np.float32))
for i in range(layers):
    b = f"blk.{i}."
    for name in ("attn_norm", "ffn_norm"):
        w.add_tensor(f"{b}{name}.weight", np.ones(h, np.float32))
    w.add_tensor(b + "attn_qkv.weight", r(h + 2 * groups * d, h))
    w.add_tensor(b + "attn_qkv.bias", r(h + 2 * groups * d))
    w.add_tensor(b + "attn_output.weight", r(h, h))
    w.add_tensor(b + "ffn_up.weight", r(2 * ffn, h)), w.add_tensor(b + "ffn_down.weight", r(h, ffn))
w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
q = llama_cpp.llama_model_quantize_default_params()
q.ftype, q.nthread = {"8": 7, "4": 2}[kind], 2
assert llama_cpp.llama_model_quantize(base.encode(), path.encode(), ctypes.byref(q)) == 0
"""


def llama(chosen: argparse.Namespace) -> Server:
    """llama-cpp-python's server on the same shape and type, with random weights."""
    folder = Path(tempfile.gettempdir())
    base, path = folder / "glm_served_f32.gguf", folder / f"glm_served_{chosen.quantization_bit}.gguf"
    if not path.exists():
        words = [chosen.llama_python, "-c", _GGUF, str(base), str(path), str(chosen.quantization_bit)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = "18765"
    words = [chosen.llama_python, "-m", "llama_cpp.server", "--model", str(path), "--n_ctx", "4096", "--port", port]
    return Server([*words, "--n_threads", "2", "--n_threads_batch", "2", "--verbose", "false"], int(port))


async def _throughput(address: str, clients: int, more: dict[str, Any], *, new: int = 64) -> float:
    """Tokens/s of all clients together, each with prompts of 128 tokens that nobody asked before."""
    draw, made = random.Random(clients), 0

    async def one(http: httpx.AsyncClient, rounds: int) -> None:
        nonlocal made
        for _ in range(rounds):
            text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=127))
            prompt = text if "model" not in more else [draw.randrange(300, 1000) for _ in range(128)]
            asked = {"prompt": prompt, "max_tokens": new, "temperature": 0, **more}
            answer = await http.post("/v1/completions", json=asked)
            made += answer.json()["usage"]["completion_tokens"]  # not over the await: others add meanwhile

    async with httpx.AsyncClient(base_url=address, timeout=600) as http:
        await one(http, 1)
        made, begin = 0, time.perf_counter()
        await asyncio.gather(*(one(http, max(1, 8 // clients)) for _ in range(clients)))
        return made / (time.perf_counter() - begin)


class Mixed:
    """16 clients with prompts and answers of many lengths, the same for every server.

    The peer computes one request after the other, whoever waits: `only` so many of them, with tokens of prompts and
    answers in the same proportion, tell its rate.
    """

    def __init__(self, address: str, *, is_ours: bool, requests: int, only: int | None = None) -> None:
        draw = random.Random(0)
        self.sizes = [(draw.randint(128, 2048), draw.randint(64, 256)) for _ in range(16 * requests)]
        if only is not None and not is_ours:
            whole, windows = _proportion(self.sizes), range(len(self.sizes) - only + 1)
            begin = min(windows, key=lambda i: abs(_proportion(self.sizes[i : i + only]) - whole))
            self.sizes = self.sizes[begin : begin + only]
        self.address, self.is_ours, self.requests = address, is_ours, requests
        self.waits: list[float] = []
        self.firsts: list[float] = []
        self.tokens = 0

    async def run(self) -> dict[str, float]:
        """Figures of all clients together."""
        async with httpx.AsyncClient(base_url=self.address, timeout=1200) as http:
            await self._ask(http, 16, 8, 0)
            self.waits, self.firsts, self.tokens = [], [], 0
            begin = time.perf_counter()
            await asyncio.gather(*(self._client(http, number) for number in range(16)))
            seconds = time.perf_counter() - begin
        prompts = sum(prompt for prompt, _ in self.sizes)
        return {"new": self.tokens / seconds, "all": (self.tokens + prompts) / seconds, "seconds": seconds}

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        for place in range(self.requests):
            index = number * self.requests + place
            if index >= len(self.sizes):
                return
            await self._ask(http, *self.sizes[index], index + 1)

    async def _ask(self, http: httpx.AsyncClient, size: int, new: int, seed: int) -> None:
        draw = random.Random(seed)
        if not self.is_ours:  # it takes one request at a time, and a stream is broken off by the next
            text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=size - 1))
            asked = {"prompt": text, "max_tokens": new, "temperature": 0, "logit_bias": {"2": -100}}
            answer = await http.post("/v1/completions", json=asked)
            self.tokens += answer.json()["usage"]["completion_tokens"]  # not over the await: others add meanwhile
            return
        prompt = [draw.randrange(300, 60000) for _ in range(size)]
        asked = {"model": "model", "prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True}
        last, begin = 0.0, time.perf_counter()
        async with http.stream("POST", "/v1/completions", json={**asked, "stream": True}) as reply:
            async for line in reply.aiter_lines():
                if not line.startswith("data: {") or '"finish_reason": "' in line:
                    continue
                now = time.perf_counter()
                self.waits += [now - last] if last else []
                self.firsts += [] if last else [now - begin]
                last = now
        self.tokens += new

    def latencies(self) -> dict[str, float]:
        """Milliseconds between tokens and seconds to the first."""
        waits, firsts = sorted(self.waits), sorted(self.firsts)
        half, most = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
        told = {"inter-token ms, median": 1000 * half, "inter-token ms, p99": 1000 * most, "p99 / median": most / half}
        return {**told, "first token s, median": statistics.median(firsts), "first token s, most": firsts[-1]}


def _proportion(sizes: list[tuple[int, int]]) -> float:
    return sum(prompt for prompt, _ in sizes) / sum(new for _, new in sizes)


def measure_mixed(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Both servers in turn: medians."""
    chosen.model = "long shape"
    found: dict[str, list[dict[str, float]]] = {}
    latencies: dict[str, float] = {}
    for _ in range(chosen.rounds):
        for name in ("ours", "llama.cpp") if chosen.llama_python != "-" else ("ours",):
            server = ours(chosen, *chosen.more.split()) if name == "ours" else llama(chosen)
            try:
                mixed = Mixed(
                    server.address, is_ours=name == "ours", requests=chosen.requests, only=chosen.peer_answers
                )
                found.setdefault(name, []).append(asyncio.run(mixed.run()))
                own = mixed.latencies() if mixed.is_ours else {}
                latencies = own or latencies
                print(name, json.dumps({**found[name][-1], **own}), file=sys.stderr, flush=True)
            finally:
                server.stop()
    told: dict[str, Any] = {"bits": chosen.quantization_bit, "clients": 16, "answers": 16 * chosen.requests}
    for name, runs in found.items():
        told |= {f"{name} {key}": round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
    if "llama.cpp" in found:
        told["ratio"] = round(told["ours all"] / told["llama.cpp all"], 2)
    return [told | {name: round(value, 2) for name, value in latencies.items()}]


def measure_compare(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Both servers in turn, A B A B: medians."""
    chosen.model = "shape"
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(2):
        for name in ("ours", "llama.cpp"):
            server = ours(chosen) if name == "ours" else llama(chosen)
            more = {"model": "model", "ignore_eos": True} if name == "ours" else {}
            try:
                for clients in (1, 4, 16):
                    rate = asyncio.run(_throughput(server.address, clients, more))
                    found.setdefault((name, clients), []).append(rate)
            finally:
                server.stop()
    rows = []
    for clients in (1, 4, 16):
        mine, theirs = (statistics.median(found[name, clients]) for name in ("ours", "llama.cpp"))
        told = {
            "ours tokens/s": round(mine, 1),
            "llama.cpp tokens/s": round(theirs, 1),
            "ratio": round(mine / theirs, 2),
        }
        rows.append({"bits": chosen.quantization_bit, "clients": clients, **told})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measures and prints."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("llama_python", help="interpreter with llama-cpp-python[server] and gguf; -: ours alone")
    p.add_argument("--bits", type=int, choices=(4, 8), default=8, dest="quantization_bit")
    p.add_argument("--tokenizer", help="tokenizer.model of 65,024 ids (that of ../shared)")
    p.add_argument("--mixed", action="store_true", help="16 clients with prompts and answers of many lengths")
    p.add_argument("--requests", type=int, default=1, help="of each of the 16 clients (1)")
    p.add_argument("--peer_answers", type=int, help="of all requests, so many for the peer, which is slower (all)")
    p.add_argument("--rounds", type=int, default=1, help="of both servers (1)")
    p.add_argument("--more", default="", help="more options of our server, as one text")
    chosen = p.parse_args(argv)
    for row in (measure_mixed if chosen.mixed else measure_compare)(chosen):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
