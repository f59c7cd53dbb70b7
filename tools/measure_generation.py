#!/usr/bin/env python3
"""Measures generation on a network of true depth and vocabulary (28 layers, 65,024 ids) and small width.

    python tools/measure_generation.py                 # all of it, a table
    python tools/measure_generation.py memory --json figures.json

start: seconds from process start to the first token, first with empty caches, then again. compile: graphs compiled by
200 requests of random length. memory: what a prompt of 1k to 8k tokens adds to the process. overhead: milliseconds
for each token where the matrices are too small to matter. Every figure comes from a process of its own; the load of
the machine stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPE = {
    "num_layers": 28, "padded_vocab_size": 65024, "hidden_size": 64, "ffn_hidden_size": 128, "kv_channels": 16,
    "num_attention_heads": 4, "multi_query_group_num": 2, "seq_length": 9216,
    "param_init_type": "float32", "compute_dtype": "float32", "layernorm_compute_type": "float32",
}  # fmt: skip
LENGTHS = (1024, 2048, 4096, 8192)
REQUESTS = 200


def build(**changes: Any) -> Any:
    """An engine over the network with random weights, in this process."""
    from mindformers_glm import ChatGLM2Config, runtime  # noqa: PLC0415 - only in the processes that measure
    from mindformers_glm.generation.generate import MindSporeEngine  # noqa: PLC0415
    from mindformers_glm.models.build import build_model  # noqa: PLC0415

    runtime.set_up({"device_target": "CPU"}, seed=1)
    return MindSporeEngine(build_model(ChatGLM2Config(**{**SHAPE, **changes})).set_train(False))


def generate(engine: Any, length: int, new: int, *, seed: int = 0) -> list[Any]:
    """Seconds at which each new token came, after a random prompt of `length` tokens."""
    import numpy as np  # noqa: PLC0415

    from mindformers_glm.generation.config import GenerationConfig  # noqa: PLC0415

    prompt = np.random.default_rng(seed).integers(3, 1000, length).tolist()
    return [time.perf_counter() for _ in engine.submit(prompt, GenerationConfig(max_new_tokens=new))]


def part_start() -> dict[str, Any]:
    """The first token, and nothing after it: the parent reads the clock."""
    generate(build(), 16, 1)
    print("first token", flush=True)
    os._exit(0)


def part_compile(layers: int = SHAPE["num_layers"]) -> dict[str, Any]:
    """Graphs after one request, and after many more of random lengths, four at a time."""
    import numpy as np  # noqa: PLC0415

    from mindformers_glm.generation.config import GenerationConfig  # noqa: PLC0415

    engine, random = build(num_layers=layers), np.random.default_rng(3)
    generate(engine, 5, 2)
    before = engine.network.compilations
    for _ in range(REQUESTS // 4):
        tickets = [
            engine.submit(
                random.integers(3, 1000, random.integers(1, 300)).tolist(),
                GenerationConfig(max_new_tokens=int(random.integers(1, 4))),
            )
            for _ in range(4)
        ]
        for ticket in tickets:
            ticket.results()
    return {
        "layers": layers,
        "requests": REQUESTS,
        "graphs": before,
        "compiled again": engine.network.compilations - before,
    }


def part_memory(length: int) -> dict[str, Any]:
    """MB that a prompt and one token add at their peak to the process that has compiled everything."""
    engine = build()
    generate(engine, 16, 3)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, begin = _memory("VmRSS"), time.perf_counter()
    seconds = generate(engine, length, 1)[0] - begin
    return {"tokens": length, "peak MB": round(_memory("VmHWM") - before, 1), "seconds": round(seconds, 2)}


def part_overhead() -> dict[str, Any]:
    """Milliseconds for a token at batch 1, median and best tenth, with a vocabulary that costs nothing either."""
    engine = build(padded_vocab_size=1024)
    times = generate(engine, 16, 130)[30:]
    gaps = sorted((b - a) * 1000 for a, b in zip(times, times[1:], strict=False))
    return {"median ms": round(gaps[len(gaps) // 2], 2), "best tenth ms": round(gaps[len(gaps) // 10], 2)}


def _memory(name: str) -> float:
    """MB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


# --- the process that starts the others -----------------------------------------------------------------------


def child(part: str, *, folder: str | None = None) -> str:
    """What a fresh process prints for a part."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", part]
    environment = {**os.environ, "GLOG_v": "3"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True, cwd=folder)
    return done.stdout


def measure(what: str) -> list[dict[str, Any]]:
    """Rows of figures."""
    if what == "start":
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for caches in ("empty", "warm"):
                begin = time.perf_counter()
                child("start", folder=folder)
                rows.append({"caches": caches, "seconds to first token": round(time.perf_counter() - begin, 2)})
        return rows
    parts = [f"memory:{length}" for length in LENGTHS] if what == "memory" else [what]
    return [json.loads(child(part).splitlines()[-1]) for part in parts]


def main(argv: list[str] | None = None) -> int:
    """Measures and prints."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="*", default=["start", "compile", "memory", "overhead"])
    p.add_argument("--json", help="also write the figures to this file")
    p.add_argument("--part", help=argparse.SUPPRESS)
    chosen = p.parse_args(argv)
    if chosen.part:
        name, _, argument = chosen.part.partition(":")
        part = {"start": part_start, "compile": part_compile, "memory": part_memory, "overhead": part_overhead}[name]
        print(json.dumps(part(*map(int, filter(None, [argument])))), flush=True)
        os._exit(0)
    figures = {}
    for what in chosen.what:
        load = os.getloadavg()[0]
        figures[what] = [{**row, "load": round(load, 1)} for row in measure(what)]
        for row in figures[what]:
            print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    from command import require

    require()
    sys.exit(main())
