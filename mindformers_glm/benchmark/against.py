"""Another program on the same work, in turn with ours: A B A B, medians, ratios.

The peer is the user's own script in its own Python. It is told the shape and prints a JSON line; see docs/speed.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.benchmark.processes import measure, run_program
from mindformers_glm.benchmark.report import disturbance, megabytes, title
from mindformers_glm.benchmark.settings import Settings
from mindformers_glm.errors import ConfigError, UserError

_SPEED = {"train": "tokens_per_s", "prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s"}
_TORCH_LENGTH = 512  # its script's prompt, and so the context of its first decoded token
_TORCH_TYPES = {"float32": "fp32", "bfloat16": "bf16"}
_LLAMA_TYPES = {"float32": "f32", "bfloat16": "f16", "int8": "q8_0", "int4": "q4_0"}
PEERS = ("torch", "llama.cpp")


class Peer(NamedTuple):
    """Whom to compare with: `kind` is one of PEERS; `dtype` in the peer's own words, None for the nearest to ours."""

    kind: str
    python: str
    script: str
    dtype: str | None = None
    rounds: int = 2

    def command(self, settings: Settings) -> list[str]:
        """The peer's command for the work that settings describe.

        Raises:
            ConfigError: the peer does no such work, or a file is missing.
        """
        for key, value in (("--peer_python", self.python), ("--peer_script", self.script)):
            if not Path(value).is_file():
                raise ConfigError(key, value, "There is no such file. Check the path.")
        maker = _torch if self.kind == "torch" else _llama
        return [self.python, self.script, *maker(settings, self.dtype)]


class Comparison(NamedTuple):
    """Runs in the order they were made, ours and theirs."""

    ours: list[dict[str, Any]]
    theirs: list[dict[str, Any]]
    speed_key: str
    peak_bytes: list[int]
    others: list[float | None]

    def plain(self) -> dict[str, Any]:
        """The comparison in JSON's types."""
        mine, other = (statistics.median(values) for values in self.speeds())
        return {
            "tokens_per_s": mine,
            "peer_tokens_per_s": other,
            "ratio": mine / other,
            "rounds": [list(pair) for pair in zip(*self.speeds(), strict=True)],
            "ours": self.ours,
            "peer": self.theirs,
            "peer_process_peak_bytes": max(self.peak_bytes),
            "peer_others_share": self.others,
        }

    def speeds(self) -> tuple[list[float], list[float]]:
        """Tokens per second of each round, ours and theirs."""
        return [run["tokens_per_s"] for run in self.ours], [run[self.speed_key] for run in self.theirs]


def compare(settings: Settings, peer: Peer, *, show: Callable[[str], None]) -> Comparison:
    """Runs ours and the peer in turn, `rounds` times each; `show` is told each run.

    Raises:
        ConfigError: the peer cannot do this work.
        UserError: a run failed, or the peer printed no speed.
    """
    command, key = peer.command(settings), _SPEED[settings.what]
    found = Comparison([], [], key, [], [])
    for number in range(peer.rounds):
        found.ours.append(measure(settings))
        show(f"round {number + 1}: ours {found.ours[-1]['tokens_per_s']:,.1f} tokens/s")
        finished = run_program(command, threads=settings.threads)
        if not isinstance(finished.rows[-1].get(key), (int, float)):
            raise UserError(f"{peer.script} printed no number {key!r}: {sorted(finished.rows[-1])}")
        found.theirs.append(finished.rows[-1])
        found.peak_bytes.append(finished.peak_bytes)
        found.others.append(finished.others_share)
        show(f"round {number + 1}: {peer.kind} {finished.rows[-1][key]:,.1f} tokens/s")
    return found


def lines(comparison: Comparison) -> Iterator[str]:
    """What a comparison is shown as."""
    figures, last = comparison.plain(), comparison.theirs[-1]
    mine, other = comparison.speeds()
    name = str(last.get("peer", "the peer"))
    kind = last.get("type", last.get("dtype", ""))
    yield title(comparison.ours[-1])
    yield f"  {'ours':<28} {figures['tokens_per_s']:>10,.1f} tokens/s  ({_range(mine)})"
    yield f"  {f'{name} {kind}'.strip():<28} {figures['peer_tokens_per_s']:>10,.1f} tokens/s  ({_range(other)})"
    yield f"  {'ratio of medians':<28} {figures['ratio']:>10.2f}"
    ours = max(run["process_peak_bytes"] for run in comparison.ours)
    yield f"  peak memory of the process: ours {megabytes(ours)}, theirs {megabytes(max(comparison.peak_bytes))}"
    yield from disturbance([run["others_share"] for run in comparison.ours] + comparison.others)


def _range(values: list[float]) -> str:
    return f"{min(values):,.1f} to {max(values):,.1f} in {len(values)} rounds"


def _torch(settings: Settings, dtype: str | None) -> list[str]:
    dtype = dtype or _TORCH_TYPES.get(settings.dtype)
    if dtype is None:
        fix = "torch's script has no such type: name the one to compare with, --peer_dtype bf16."
        raise ConfigError("--dtype", settings.dtype, fix)
    shared = ["--shape", str(settings.shape), "--dtype", dtype, "--threads", str(settings.threads)]
    if settings.what == "train":
        sizes = ["--batch", str(settings.batch), "--seq", str(settings.length), "--steps", str(settings.steps)]
        return ["train", *shared, *sizes, *(["--lora"] if settings.lora else [])]
    _one_sequence(settings)
    if settings.length != _TORCH_LENGTH:
        fix = f"torch's script takes a prompt of {_TORCH_LENGTH} tokens and decodes after it."
        raise ConfigError(f"--{'prompt' if settings.what == 'prefill' else 'context'}", settings.length, fix)
    return ["infer", *shared]


def _llama(settings: Settings, dtype: str | None) -> list[str]:
    if settings.what == "train":
        raise ConfigError("--against", "llama.cpp", "It does not train; compare training with torch.")
    _one_sequence(settings)
    kind = dtype or _LLAMA_TYPES[settings.dtype]
    sizes = ["--threads", str(settings.threads), "--prompt", str(settings.length)]
    return ["--shape", str(settings.shape), "--types", kind, *sizes]


def _one_sequence(settings: Settings) -> None:
    if settings.batch != 1:
        raise ConfigError("--batch", settings.batch, "The peers' scripts run one sequence at a time.")
