#!/usr/bin/env python3
"""Measures training on this processor: one process with two threads against two processes with one, and bytes sent.

python tools/measure_scaling.py [--steps 10]. Bytes are those of the loopback interface; run it under `unshare -rn sh -c
'ip link set lo up; ...'` to count nobody else's. Quiet the machine first.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {"one process": (1, 1, False), "dp 2": (2, 1, False), "tp 2": (1, 2, False), "dp 2, divided": (2, 1, True)}
LAYERS, HIDDEN, FFN, VOCABULARY, TOKENS, ROWS = 4, 256, 688, 4096, 128, 8


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since it came up."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[8])
    return 0


def theory(dp: int, tp: int, divided: bool, trained: int) -> float:
    """Bytes that all ranks together send in a step, by docs/distributed.md; a sum costs 2 (n - 1) / n on each rank."""
    rows = ROWS // dp * TOKENS * HIDDEN * 4
    data = 2 * (dp - 1) * trained * 4 / tp * tp
    rows_back = 2 * (dp - 1) * trained * 4 if divided else 0
    tensor = 2 * (tp - 1) * ((4 * LAYERS + 2) * rows + 3 * ROWS // dp * TOKENS * 4) * dp
    return data + rows_back + tensor


def train(dp: int, tp: int, divided: bool, steps: int) -> None:
    """Trains and prints seconds and bytes of a step; runs in every process."""
    from mindformers_glm import runtime  # noqa: PLC0415 - the parent process needs none of this
    from mindformers_glm.assembly.ranks import Ranks  # noqa: PLC0415
    from mindformers_glm.data.batch import Batch  # noqa: PLC0415
    from mindformers_glm.models.glm.config import ChatGLM2Config  # noqa: PLC0415
    from mindformers_glm.optim import AdamW, decay_groups  # noqa: PLC0415
    from mindformers_glm.parallel.collectives import sum_over  # noqa: PLC0415
    from mindformers_glm.parallel.mesh import Axis, make_mesh  # noqa: PLC0415
    from mindformers_glm.train.step import TrainStep  # noqa: PLC0415

    if os.environ.get("MS_ROLE") == "MS_SCHED":
        runtime.serve_as_scheduler()
        return
    if dp * tp > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[runtime.rank() % os.cpu_count()]})
    runtime.set_up({"device_target": "CPU"}, seed=1, use_parallel=dp * tp > 1)
    config = ChatGLM2Config(
        num_layers=LAYERS, hidden_size=HIDDEN, ffn_hidden_size=FFN, padded_vocab_size=VOCABULARY, kv_channels=32,
        num_attention_heads=8, seq_length=TOKENS, param_init_type="float32", compute_dtype="float32",
    )  # fmt: skip
    ranks = Ranks(make_mesh(runtime.rank() if dp * tp > 1 else 0, dp=dp, tp=tp), config, divided)
    network = ranks.network(training=True)
    optimizer = ranks.optimizer(lambda p: AdamW(decay_groups(p, 0.1), learning_rate=1e-3), network.trainable_params())
    step = TrainStep(network, optimizer, max_grad_norm=1.0, reduction=ranks.reduction(optimizer))
    rng = np.random.default_rng(ranks.mesh.data.rank)
    ids = rng.integers(0, VOCABULARY, (ROWS // dp, TOKENS)).astype(np.int32)
    batch = Batch(ids, np.roll(ids, -1, 1), np.arange(len(ids)))
    everybody = Axis("all", tuple(range(dp * tp)), ranks.mesh.rank)
    for _ in range(3):
        step([batch], 1e-3)
    sum_over(everybody, np.ones(1))
    before, begin = loopback_bytes(), time.perf_counter()
    for _ in range(steps):
        step([batch], 1e-3)
    seconds, sent = (time.perf_counter() - begin) / steps, (loopback_bytes() - before) / steps
    print(f"RESULT {seconds} {sent}", flush=True)


def measure(name: str, steps: int, folder: str) -> tuple[float, float]:
    """(seconds, bytes sent by all) of a step of a variant."""
    dp, tp, _ = VARIANTS[name]
    processes = dp * tp
    command = [str(Path(__file__).resolve()), "--variant", name, "--steps", str(steps)]
    threads = os.cpu_count() if processes == 1 else 1
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": str(threads), "GLOG_v": "3"}
    if processes == 1:
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=True)
        text = done.stdout
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher = [sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={processes}", "--join=True"]
        launcher += [f"--local_worker_num={processes}", f"--master_port={port}", f"--log_dir={folder}"]
        subprocess.run(launcher + command, env=environment, capture_output=True, check=True)
        text = Path(folder, "worker_0.log").read_text()
    line = next(line for line in text.splitlines() if line.startswith("RESULT"))
    seconds, sent = map(float, line.split()[1:])
    return seconds, sent


def main() -> None:
    """Prints the table of docs/distributed.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        train(*VARIANTS[args.variant], args.steps)
        return
    layer = (8 + 4) * 32 * HIDDEN + (8 + 4) * 32 + HIDDEN * HIDDEN + 3 * FFN * HIDDEN + 2 * HIDDEN
    trained = 2 * VOCABULARY * HIDDEN + LAYERS * layer + HIDDEN
    print(f"{trained / 1e6:.1f} M parameters, {ROWS} rows of {TOKENS} tokens in a step, {os.cpu_count()} cores")
    print("| | tokens/s | ms per step | MB sent per step | theory |\n|---|---|---|---|---|")
    for name, division in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, sent = measure(name, args.steps, folder)
        figures = f"{ROWS * TOKENS / seconds:.0f} | {seconds * 1e3:.0f} | {sent / 1e6:.2f}"
        print(f"| {name} | {figures} | {theory(*division, trained) / 1e6:.2f} |", flush=True)


if __name__ == "__main__":
    from command import require

    require()
    main()
