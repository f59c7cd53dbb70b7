"""Figures for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.benchmark.contention import DISTURBED
from mindformers_glm.files import write_text

_LENGTH_NAMES = {"train": "sequence", "ops": "sequence", "prefill": "prompt", "decode": "context"}


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """What a run is shown as."""
    yield title(figures)
    if figures["what"] == "ops":
        yield from _operators(figures)
    else:
        yield from _speed(figures)
    machine = figures["machine"]
    yield _row("start, compile", f"{figures['start_s']:.1f} s, {figures['compile_s']:.1f} s")
    yield _row(
        "this machine",
        f"{machine['processor']}: {machine['memory_bytes_per_s'] / 1e9:.1f} GB/s read by {machine['memory_read_by']}, "
        f"{machine['matrix_flop_per_s'] / 1e9:.0f} GFLOP/s in float32 matmul",
    )
    yield from disturbance([figures["others_share"]])
    yield _row("kernels", ", ".join(filter(None, (figures["kernels"], figures.get("network")))))


def title(figures: dict[str, Any]) -> str:
    """What was measured, on one line."""
    what = figures["what"] + (" (LoRA)" if figures["lora"] else "")
    threads = f"{figures['threads']} thread{'s' if figures['threads'] > 1 else ''}"
    size = f"batch {figures['batch']}  {_LENGTH_NAMES[figures['what']]} {figures['length']}"
    cache = f"  cache {figures['cache_dtype']}" if figures["what"] == "decode" else ""
    return f"{what}  {figures['shape']}  {figures['dtype']}{cache}  {size}  {threads}"


def write_json(path: str | Path, figures: Any) -> None:
    """Writes figures atomically; the folder is made where it is missing."""
    write_text(path, json.dumps(figures, indent=1) + "\n")


def megabytes(count: float) -> str:
    """Bytes as MB."""
    return f"{count / 1e6:,.0f} MB"


def percent(share: float) -> str:
    """A part of 1, in percent."""
    return f"{share:.0%}"


def disturbance(shares: Sequence[float | None]) -> Iterator[str]:
    """A line where other programs took a good part of the machine."""
    most = max((share for share in shares if share is not None), default=0.0)
    if most > DISTURBED:
        yield _row("DISTURBED", f"other programs took {percent(most)} of the CPUs: measure again on a quiet machine")


def _speed(figures: dict[str, Any]) -> Iterator[str]:
    spread = f"{figures['ms_low']:.2f} to {figures['ms_high']:.2f}"
    yield _row("tokens/s", f"{figures['tokens_per_s']:,.1f}")
    if "engine_tokens_per_s" in figures:
        yield _row("through the engine", f"{figures['engine_tokens_per_s']:,.1f} tokens/s")
    yield _row("ms per token", f"{figures['ms_per_token']:.3f}")
    yield _row("ms per step", f"{figures['ms_median']:.2f} ({spread})")
    if "memory_share" in figures:
        read = f"{megabytes(figures['bytes_per_step'])} a step"
        yield _row("of memory speed", f"{percent(figures['memory_share'])} ({read})")
    if "matrix_share" in figures:
        done = f"{figures['flop'] / 1e9:,.1f} GFLOP a step"
        yield _row("of matrix speed", f"{percent(figures['matrix_share'])} ({done})")
    weights = f"weights {megabytes(figures['weight_bytes'])}"
    yield _row("peak memory", f"{megabytes(figures['peak_bytes'])} ({weights})")
    yield _row("parameters", f"{figures['parameters'] / 1e6:,.1f} M")


def _operators(figures: dict[str, Any]) -> Iterator[str]:
    yield f"  {'operator':<24}{'forward':>10}{'+ gradient':>12}   forward reaches"
    for row in figures["operators"]:
        gradient = f"{row['gradient_ms']:.3f}" if "gradient_ms" in row else "-"
        if "matrix_share" in row:
            reached = f"{percent(row['matrix_share'])} of matrix speed"
        else:
            reached = f"{percent(row['memory_share'])} of memory speed"
        yield f"  {row['name']:<24}{row['forward_ms']:>7.3f} ms{gradient:>9} ms   {reached}"
    yield _row("peak memory", megabytes(figures["peak_bytes"]))


def _row(name: str, value: str) -> str:
    return f"  {name:<20} {value}"
