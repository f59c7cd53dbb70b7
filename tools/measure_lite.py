#!/usr/bin/env python3
"""Measures MindSpore Lite beside our engines: export, conversion, disk, loading, memory, tokens.

    python tools/measure_lite.py                                      # 34.7 M parameters, a table
    python tools/measure_lite.py --num_layers 6 --hidden_size 2048 --folder big --only none   # weights above 2 GB

Random weights, 64 greedy tokens after a prompt of 12, then a prompt of 256. Every row but those of Lite comes from a
process of its own; memory of Lite is that of its worker. Quiet the machine first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

NEW, PROMPT, LONG, TURNS = 64, 12, 256, 3
KINDS = ("none", "float16", "mixed")


def shape_of(args: argparse.Namespace) -> dict[str, Any]:
    """The network: heads of 64 channels up to a width of 1024, of 128 above."""
    channels = 64 if args.hidden_size <= 1024 else 128
    return {
        "num_layers": args.num_layers, "hidden_size": args.hidden_size, "padded_vocab_size": args.vocabulary,
        "num_attention_heads": args.hidden_size // channels, "multi_query_group_num": 2, "kv_channels": channels,
        "ffn_hidden_size": int(args.hidden_size * 3.34375), "seq_length": 512,
        "param_init_type": "float32", "compute_dtype": "float32", "layernorm_compute_type": "float32",
    }  # fmt: skip


def make(folder: Path, shape: dict[str, Any]) -> dict[str, float]:
    """Writes a checkpoint with random weights and exports it; seconds and sizes."""
    from mindspore import Tensor  # noqa: PLC0415

    from mindformers_glm import ChatGLM2Config, runtime  # noqa: PLC0415 - only in the processes that measure
    from mindformers_glm.checkpoint.convert import save_directory  # noqa: PLC0415
    from mindformers_glm.export.export import export_model  # noqa: PLC0415
    from mindformers_glm.export.plan import ExportPlan  # noqa: PLC0415
    from mindformers_glm.models.build import build_model  # noqa: PLC0415

    runtime.set_up({"device_target": "CPU"}, seed=1)
    config = ChatGLM2Config(**shape)
    model = build_model(config).set_train(False)
    random = np.random.default_rng(1)
    for name, parameter in model.parameters_dict().items():
        values = random.standard_normal(parameter.shape, np.float32) * np.float32(0.04)
        parameter.set_data(Tensor(values + np.float32("layernorm.weight" in name)))
    save_directory(folder / "weights", {p.name: p.asnumpy() for p in model.get_parameters()}, config)
    begin = time.perf_counter()
    plan = ExportPlan(prefill=folder / "m_prefill_seq512", increment=folder / "m_inc_seq512", dynamic=True)
    export_model(model, plan)
    seconds, size = time.perf_counter() - begin, sum(p.size for p in model.get_parameters())
    return {"export_seconds": seconds, "parameters": size, "peak_mb": memory(os.getpid(), "VmHWM")}


def engine(folder: Path) -> dict[str, Any]:
    """Our engine over the same checkpoint."""
    begin = time.perf_counter()
    from mindformers_glm import AutoModel  # noqa: PLC0415 - starting is part of opening
    from mindformers_glm.generation.generate import engine_of  # noqa: PLC0415

    made = engine_of(AutoModel.from_pretrained(folder / "weights"))
    seconds = time.perf_counter() - begin
    found = {"open_seconds": seconds, "network": type(made.network).__name__, **tokens_of(made)}
    return {**found, "memory_mb": memory(os.getpid())}


def lite(folder: Path, file: str, threads: int) -> dict[str, Any]:
    """Lite over one file of the export."""
    from mindformers_glm.export.lite.engine import open_lite  # noqa: PLC0415

    begin = time.perf_counter()
    with open_lite(folder / file, threads=threads, prefer_converted=False) as opened:
        seconds = time.perf_counter() - begin
        found = {"open_seconds": seconds, **tokens_of(opened.engine)}
        pid = opened.engine.runner.pid
        found |= {"memory_mb": memory(pid), "peak_mb": memory(pid, "VmHWM")}
        if threads == 1 and file.endswith("_v1.mindir"):
            found["echo_ms"] = {count: echo(opened.engine.runner, count) for count in (1, 8192, 65024)}
    return found


def tokens_of(made: Any) -> dict[str, Any]:
    """The greedy tokens, and the median and best time of one and the time of a prompt, on the network itself."""
    from mindformers_glm.generation.config import GenerationConfig  # noqa: PLC0415

    network, random = made.network, np.random.default_rng(7)
    prompt, long = (random.integers(3, network.vocab_size, count).tolist() for count in (PROMPT, LONG))
    ids = made.submit(prompt, GenerationConfig(max_new_tokens=NEW, eos_token_id=None)).results()[0].ids

    def forward(tokens: list[int], cache: Any) -> float:
        begin = time.perf_counter()
        network.forward(np.asarray([tokens], np.int32), np.asarray([len(tokens)]), cache, np.asarray([len(tokens) - 1]))
        return 1e3 * (time.perf_counter() - begin)

    turns, prompts = [], []
    for _ in range(TURNS):
        prompts.append(forward(long, network.new_cache(1)))
        cache = network.new_cache(1)
        forward(prompt, cache)
        turns.append([forward([token], cache) for token in ids])
    median = min(float(np.median(turn)) for turn in turns)
    return {"ids": ids, "token_ms": median, "best_ms": min(map(min, turns)), "prompt_ms": min(prompts)}


def echo(worker: Any, count: int) -> float:
    """Milliseconds for so many float32 to the worker and back."""
    data, rounds = np.zeros(count, np.float32), 200
    worker.echo([data])
    begin = time.perf_counter()
    for _ in range(rounds):
        worker.echo([data])
    return 1e3 * (time.perf_counter() - begin) / rounds


def memory(pid: int, key: str = "VmRSS") -> float:
    """Megabytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def child(args: argparse.Namespace, part: str, **environment: str) -> dict[str, Any]:
    """What a part finds in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--folder", str(args.folder), "--part", part]
    for key in ("num_layers", "hidden_size", "vocabulary"):
        command += [f"--{key}", str(getattr(args, key))]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def convert(folder: Path, kind: str) -> dict[str, Any]:
    """Lite's Converter; seconds, size and what its report says."""
    from mindformers_glm.export.lite.convert import convert_lite  # noqa: PLC0415

    begin = time.perf_counter()
    report = convert_lite(folder, quantization=kind, threads=1)
    return {"file": report.file, "seconds": time.perf_counter() - begin, "lines": report.lines()}


def show(name: str, found: dict[str, Any], reference: list[int], disk: float | None = None) -> None:
    """A row of the table."""
    equal = sum(a == b for a, b in zip(found["ids"], reference, strict=True))
    size = "" if disk is None else f"{disk / 1e6:.0f}"
    times = f"{found['token_ms']:.1f} ({found['best_ms']:.1f}) | {found['prompt_ms']:.0f}"
    row = f"| {name} | {size} | {found['open_seconds']:.1f} | {times} | {found['memory_mb']:.0f} | {equal} of {NEW} |"
    print(row, flush=True)


def main() -> None:
    """Prints the table of docs/lite.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_layers", type=int, default=8)
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--only", choices=("graphs", *KINDS), help="graphs: convert nothing; else that kind alone")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        made = make(args.folder, shape_of(args)) if args.part == "make" else engine(args.folder)
        print(json.dumps(made))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """All rows, then what no column has."""
    notes = []
    if not list(args.folder.glob("*manifest.json")):
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        made = child(args, "make")
        text = "{parameters:,} parameters; export {export_seconds:.1f} s, its largest memory {peak_mb:.0f} MB"
        notes.append(text.format(**made))
    print("| | disk MB | open s | one token ms | 256 tokens ms | memory MB | tokens equal |")
    print("|---|---|---|---|---|---|---|")
    kernels, graphs = child(args, "engine"), child(args, "engine", GLM_KERNELS="off")
    reference = graphs["ids"]
    show(f"our engine, {kernels['network']}", kernels, reference)
    show("our engine, MindSpore's operators", graphs, reference)
    v1 = next(path.name for path in args.folder.glob("*_v1*.mindir"))
    disk = sum(path.stat().st_size for path in [args.folder / v1, *args.folder.glob("*_variables/*")])
    for threads in (1, 2):
        found = lite(args.folder, v1, threads)
        show(f"Lite, MindIR, {threads} threads", found, reference, disk)
        notes.append(f"MindIR, {threads} threads: largest memory {found['peak_mb']:.0f} MB")
        if "echo_ms" in found:
            notes.append(f"float32 numbers to the worker and back, ms: {found['echo_ms']}")
    for kind in KINDS if args.only is None else [args.only] * (args.only != "graphs"):
        made = convert(args.folder, kind)
        notes.append(f"{kind}: {made['seconds']:.1f} s with the comparison; " + "; ".join(made["lines"]))
        files = [path for path in args.folder.glob(made["file"].removesuffix(".ms") + ".*") if path.suffix != ".json"]
        size = sum(path.stat().st_size for path in files)
        for threads in (1, 2) if kind == "none" else (1,):
            found = lite(args.folder, made["file"], threads)
            show(f"Lite, .ms {kind}, {threads} threads", found, reference, size)
            notes.append(f"{kind}, {threads} threads: largest memory {found['peak_mb']:.0f} MB")
    print("\n".join(notes))


if __name__ == "__main__":
    from command import require

    require()
    main()
