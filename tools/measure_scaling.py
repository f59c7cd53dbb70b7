#!/usr/bin/env python3
"""Measures training on this processor in every division: one process with two threads, two with one, bytes sent.

python tools/measure_scaling.py [--steps 10] [--only "dp 2" "pp 2, 1f1b"]. Bytes are those of the loopback interface of
all ranks together, beside what the form should send here, where a sum stands in for what MCCL has not (AllGather,
ReduceScatter, Send), and where a device has these. `--overlap` measures what summing gradients during the backward pass
hides: a step, its computing alone, its sums alone. Run it under `unshare -rn sh -c 'ip link set lo up; ...'` to count
nobody else's bytes. Quiet the machine first.
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
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LAYERS, HIDDEN, FFN, VOCABULARY, TOKENS, ROWS = 4, 256, 688, 4096, 128, 8
HEADS, GROUPS, CHANNELS = 8, 2, 32
MICRO = 4  # micro batches of a pipeline
BUCKET_BYTES = 4 << 20  # an eighth of what a run takes: this network has 20 MB of gradients
FLOAT = 4


class Form(NamedTuple):
    """A division. `overlap` False sums gradients after the backward pass; `part` leaves something of a step out."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    level: int = 0
    rows: bool = False
    overlap: bool = True
    scheduler: str = "1f1b"
    part: str = ""  # "computing" or "sums"

    @property
    def processes(self) -> int:
        """How many are started."""
        return self.dp * self.tp * self.pp * self.cp


FORMS = {
    "one process": Form(),
    "dp 2": Form(dp=2),
    "dp 2, overlap off": Form(dp=2, overlap=False),
    "dp 2, level 1": Form(dp=2, level=1),
    "dp 2, level 2": Form(dp=2, level=2),
    "dp 2, level 3": Form(dp=2, level=3),
    "tp 2": Form(tp=2),
    "tp 2, use_seq_parallel": Form(tp=2, rows=True),
    "pp 2, 1f1b": Form(pp=2),
    "pp 2, gpipe": Form(pp=2, scheduler="gpipe"),
    "cp 2": Form(cp=2),
}
PARTS = {
    "dp 2, computing alone": Form(dp=2, part="computing"),
    "dp 2, sums alone": Form(dp=2, part="sums"),
}


class Bytes(NamedTuple):
    """Of the network: matrices of layers and head, the embedding's table, everything else."""

    matrices: int
    table: int
    small: int

    @property
    def all(self) -> int:
        """Of every weight."""
        return sum(self)


def network_bytes() -> Bytes:
    """What the weights of the measured network take, which their gradients take too."""
    qkv = (HEADS + 2 * GROUPS) * CHANNELS
    layer, table = qkv * HIDDEN + HIDDEN * HIDDEN + 3 * FFN * HIDDEN, VOCABULARY * HIDDEN
    small = LAYERS * (qkv + 2 * HIDDEN) + HIDDEN
    return Bytes((LAYERS * layer + table) * FLOAT, table * FLOAT, small * FLOAT)


def theory(form: Form, *, here: bool) -> float:
    """Bytes that all ranks together send in a step, by section 5 of docs/distributed.md.

    A sum over n ranks costs 2 (n - 1) of its bytes, gathering, scattering and handing on half of that; `here` they cost
    as much as a sum, which stands in for them.
    """
    size, half = network_bytes(), 2 if here else 1
    rows, n = ROWS * TOKENS * HIDDEN * FLOAT, form.dp * form.cp - 1
    if form.level == 0:
        sent = 2 * n * size.all / (form.tp * form.pp) * form.tp * form.pp
    elif form.level < 3:  # noqa: PLR2004 - ZeRO's own number
        sent = n * size.all * (2 if form.level == 1 else half) + n * size.all * half
    else:
        sent = n * half * (3 * size.matrices + 2 * size.table) + 2 * n * size.small
    if form.tp > 1:
        cut = (4 * LAYERS + 2) * rows * (half if form.rows else 1)
        norms = (2 * LAYERS + 1) * HIDDEN * FLOAT if form.rows else 0
        sent += 2 * (form.tp - 1) * (cut + norms + 3 * ROWS * TOKENS * FLOAT)
    if form.pp > 1:
        sent += (form.pp - 1) * 2 * rows * half
    if form.cp > 1:
        sent += (form.cp - 1) * LAYERS * 2 * half * 2 * ROWS * TOKENS * GROUPS * CHANNELS * FLOAT
    return sent


def step_of(form: Form, ranks: Any, network: Any, optimizer: Any) -> Any:
    """What is repeated and measured: a step of training, or one part of it."""
    import mindspore as ms  # noqa: PLC0415 - the parent process needs none of this
    from mindspore import Tensor, nn, ops  # noqa: PLC0415

    from mindformers_glm.assembly.reduction import Reduction  # noqa: PLC0415
    from mindformers_glm.train.pipeline_step import build_step  # noqa: PLC0415

    reduction = ranks.reduction(optimizer)
    if form.part == "sums":
        sums = reduction.gradients

        class Alone(nn.Cell):
            def __init__(self) -> None:
                super().__init__(auto_prefix=False)
                self.sums, self.given = sums, optimizer.parameters

            def construct(self, one: Tensor) -> Tensor:
                grads = ()
                for parameter in self.given:
                    grads += (parameter * one,)
                total = one
                for grad in self.sums(grads):
                    total = total + grad.reshape(-1)[0]
                return total

        alone, one = Alone(), Tensor(1.0, ms.float32)
        return lambda _: float(ops.depend(alone(one), one).asnumpy())
    if form.part == "computing":
        reduction = Reduction()
    accumulation = MICRO if form.pp > 1 else 1
    settings = {"max_grad_norm": 1.0, "accumulation": accumulation, "reduction": reduction}
    step = build_step(network, optimizer, ranks.mesh, scheduler=form.scheduler, **settings)
    return lambda batches: step(batches, 1e-3)


def train(form: Form, steps: int) -> None:
    """Trains and prints seconds and bytes of a step; runs in every process."""
    from mindformers_glm import runtime  # noqa: PLC0415 - the parent process needs none of this
    from mindformers_glm.assembly.ranks import Ranks  # noqa: PLC0415
    from mindformers_glm.data.batch import Batch  # noqa: PLC0415
    from mindformers_glm.models.glm.config import ChatGLM2Config  # noqa: PLC0415
    from mindformers_glm.optim import AdamW, decay_groups  # noqa: PLC0415
    from mindformers_glm.parallel.collectives import sum_over  # noqa: PLC0415
    from mindformers_glm.parallel.gradients import Exchange  # noqa: PLC0415
    from mindformers_glm.parallel.mesh import Axis, make_mesh  # noqa: PLC0415

    if os.environ.get("MS_ROLE") == "MS_SCHED":
        runtime.serve_as_scheduler()
        return
    several = form.processes > 1
    if several:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[runtime.rank() % os.cpu_count()]})
    runtime.set_up({"device_target": "CPU"}, seed=1, use_parallel=several)
    config = ChatGLM2Config(
        num_layers=LAYERS, hidden_size=HIDDEN, ffn_hidden_size=FFN, padded_vocab_size=VOCABULARY,
        kv_channels=CHANNELS, num_attention_heads=HEADS, multi_query_group_num=GROUPS, seq_length=TOKENS,
        param_init_type="float32", compute_dtype="float32",
    )  # fmt: skip
    mesh = make_mesh(runtime.rank() if several else 0, dp=form.dp, tp=form.tp, pp=form.pp, cp=form.cp)
    exchange = Exchange(form.overlap, bucket_bytes=BUCKET_BYTES)
    ranks = Ranks(mesh._replace(divides_rows=form.rows), config, level=form.level, exchange=exchange)
    network = ranks.network(training=True)
    optimizer = ranks.optimizer(lambda p: AdamW(decay_groups(p, 0.1), learning_rate=1e-3), network.trainable_params())
    step = step_of(form, ranks, network, optimizer)
    rng, rows = np.random.default_rng(mesh.data.rank), ROWS // form.dp
    ids = rng.integers(0, VOCABULARY, (rows, TOKENS)).astype(np.int32)
    pieces = [slice(i, None, MICRO) for i in range(MICRO)] if form.pp > 1 else [slice(None)]
    batches = [Batch(ids[piece], np.roll(ids, -1, 1)[piece], np.arange(rows)[piece]) for piece in pieces]
    everybody = Axis("all", tuple(range(form.processes)), mesh.rank)
    for _ in range(3):
        step(batches)
    sum_over(everybody, np.ones(1))
    before, begin = loopback_bytes(), time.perf_counter()
    for _ in range(steps):
        step(batches)
    seconds, sent = (time.perf_counter() - begin) / steps, (loopback_bytes() - before) / steps
    print(f"RESULT {seconds} {sent}", flush=True)


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since it came up."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[8])
    return 0


def measure(name: str, steps: int) -> tuple[float, float]:
    """(seconds, bytes sent by all) of a step of a form."""
    processes = {**FORMS, **PARTS}[name].processes
    command = [str(Path(__file__).resolve()), "--form", name, "--steps", str(steps)]
    threads = os.cpu_count() if processes == 1 else 1
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": str(threads), "GLOG_v": "3"}
    if processes == 1:
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=True)
        text = done.stdout
    else:
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            launcher = [sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={processes}"]
            launcher += [f"--local_worker_num={processes}", f"--master_port={port}", f"--log_dir={folder}"]
            subprocess.run([*launcher, "--join=True", *command], env=environment, capture_output=True, check=True)
            text = Path(folder, "worker_0.log").read_text()
    line = next(line for line in text.splitlines() if line.startswith("RESULT"))
    seconds, sent = map(float, line.split()[1:])
    return seconds, sent


def measure_forms(names: list[str], steps: int) -> None:
    """Prints the table of docs/distributed.md."""
    print(f"{network_bytes().all / FLOAT / 1e6:.1f} M parameters, {ROWS} rows of {TOKENS} tokens in a step", flush=True)
    print("| | tokens/s | ms per step | MB sent per step | theory here | on a device |\n|---|---|---|---|---|---|")
    for name in names:
        seconds, sent = measure(name, steps)
        expected = [theory(FORMS[name], here=here) / 1e6 for here in (True, False)]
        figures = f"{ROWS * TOKENS / seconds:.0f} | {seconds * 1e3:.0f} | {sent / 1e6:.2f}"
        print(f"| {name} | {figures} | {expected[0]:.2f} | {expected[1]:.2f} |", flush=True)


def measure_overlap(steps: int) -> None:
    """Prints what summing gradients during the backward pass hides."""
    names = ("dp 2", "dp 2, overlap off", *PARTS)
    on, off, computing, sums = (measure(name, steps)[0] * 1e3 for name in names)
    print(f"computing alone {computing:.0f} ms, sums alone {sums:.0f} ms, together {computing + sums:.0f} ms")
    for name, taken in (("on", on), ("off", off)):
        print(f"overlap {name}: a step {taken:.0f} ms, hidden {computing + sums - taken:.0f} ms", flush=True)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", choices=FORMS, nargs="+", metavar="FORM", help=f"some of: {', '.join(FORMS)}")
    parser.add_argument("--overlap", action="store_true", help="what summing gradients during the backward pass hides")
    parser.add_argument("--form", choices={**FORMS, **PARTS}, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form:
        train({**FORMS, **PARTS}[args.form], args.steps)
    elif args.overlap:
        measure_overlap(args.steps)
    else:
        measure_forms(args.only or list(FORMS), args.steps)


if __name__ == "__main__":
    from command import require

    require()
    main()
