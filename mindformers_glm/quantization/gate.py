"""A quantised network beside its float model on given texts: what it lost, and whether that is too much.

The float model goes through one layer at a time (walk.py), so that it need not fit into memory; the quantised one as it
will be used, rounding of inputs and all. Figures are over the tokens of replies, or over all but the first of rows that
have none.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.generation import GenerationConfig, generate
from mindformers_glm.generation.engine import Engine
from mindformers_glm.quantization.calibrate import Lost
from mindformers_glm.quantization.walk import Walk


@dataclass
class Verdict:
    """What a network lost: `kl` is the mean of KL(float || quantised) in nats, `same_top` a share of the tokens."""

    scheme: str
    tokens: int
    perplexity_float: float
    perplexity: float
    kl: float
    same_top: float
    greedy: float | None = None  # share of the float model's greedy tokens that are written up to a first other one
    ceval_float: float | None = None
    ceval: float | None = None
    bytes: int = 0
    float_layers: list[int] = field(default_factory=list)
    float_linears: list[str] = field(default_factory=list)
    group_size: int = 0

    def line(self) -> str:
        """For people."""
        told = f"{self.scheme}: perplexity {self.perplexity:.4f} (float {self.perplexity_float:.4f}), KL {self.kl:.6f}"
        told += f", same top token {self.same_top:.2%}"
        return told + (f", greedy tokens {self.greedy:.1%}" if self.greedy is not None else "")


class FloatSide:
    """The float model's logits for rows of ids, and what it writes after the first half of each, where it fits."""

    def __init__(self, walk: Walk, begins: Sequence[int], *, shown: Callable[[], None] = lambda: None) -> None:
        self.ids = [row.tolist() for row in walk.rows]
        self.begins = list(begins)  # the first id of each row that counts
        self.logits: list[np.ndarray] = []
        self.replies: list[list[int]] | None = None
        last = walk.config.num_layers - 1
        for index in range(last + 1):
            stage = walk.layer(index)
            if index < last:
                walk.step(stage)
            else:
                self.logits = list(walk.outputs(stage))
            shown()

    @property
    def prompts(self) -> list[list[int]]:
        """What comes before the reply of each row, or its first half where it has none."""
        begins = [
            begin if begin > 1 else max(1, len(ids) // 2) for ids, begin in zip(self.ids, self.begins, strict=True)
        ]
        return [ids[:begin] for ids, begin in zip(self.ids, begins, strict=True)]


def replies(engine: Engine, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """`count` greedy tokens after each prompt."""
    config = GenerationConfig(do_sample=False, max_new_tokens=count)
    return [list(found.ids) for found in generate(engine, [list(prompt) for prompt in prompts], config)]


def measure(float_side: FloatSide, engine: Engine, scheme: str, *, greedy: int = 16) -> Verdict:
    """The verdict on the network of an engine; `greedy` tokens are written where the float model's are known."""
    network, sums, same, count = engine.network, np.zeros(3), 0, 0
    for ids, begin, exact in zip(float_side.ids, float_side.begins, float_side.logits, strict=True):
        wanted = np.arange(begin - 1, len(ids) - 1, dtype=np.int32)
        found = network.forward(
            np.asarray([ids], np.int32), np.asarray([len(ids)], np.int32), network.new_cache(1), wanted
        )
        assert found is not None
        one, other = _log_softmax(exact[wanted]), _log_softmax(found)
        after = np.asarray(ids[begin:], np.int64)
        at = np.arange(len(after))
        sums += (-one[at, after].sum(), -other[at, after].sum(), (np.exp(one) * (one - other)).sum())
        same += int((one.argmax(-1) == other.argmax(-1)).sum())
        count += len(after)
    size = max(count, 1)
    verdict = Verdict(
        scheme=scheme,
        tokens=count,
        perplexity_float=math.exp(sums[0] / size),
        perplexity=math.exp(sums[1] / size),
        kl=float(sums[2] / size),
        same_top=same / size,
    )
    if float_side.replies is not None:
        written = replies(engine, float_side.prompts, greedy)
        equal = [_equal(one, other) for one, other in zip(float_side.replies, written, strict=True)]
        verdict.greedy = sum(equal) / max(sum(map(len, float_side.replies)), 1)
    return verdict


def _equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    pairs = list(zip(one, other, strict=False))
    return next((place for place, (left, right) in enumerate(pairs) if left != right), len(pairs))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def check(verdict: Verdict, bound: float, *, anyway: bool, output: str | Path, proposal: Verdict | None = None) -> None:
    """Passes when a network lost no more than `bound` (KL), or when it may. `proposal` is one that was tried and did.

    Raises:
        CheckpointError: it lost more; nothing is written.
    """
    if verdict.kl <= bound or anyway:
        return
    fault = f"{verdict.scheme} loses KL {verdict.kl:.6f}, more than --bound {bound:g}; nothing was written"
    if proposal is not None:
        fix = "Take what the report proposes, or --anyway to write it all the same."
        raise CheckpointError(str(output), fault, fix)
    fix = (
        "Nothing that was tried loses so little: try another --scheme, --propose, or --anyway to write it all the same."
    )
    raise CheckpointError(str(output), fault, fix)


def report(verdicts: Sequence[Verdict], lost: Sequence[Lost], bound: float, proposal: Verdict | None) -> dict[str, Any]:
    """Everything for the JSON."""
    return {
        "bound_kl": bound,
        "proposal": None if proposal is None else _settings(proposal),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "layers": [{"name": row.name, "weight": row.weight, "outputs": _known(row.outputs)} for row in lost],
    }


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _settings(verdict: Verdict) -> dict[str, Any]:
    return {
        "scheme": verdict.scheme,
        "group_size": verdict.group_size,
        "float_layers_id": verdict.float_layers,
        "float_linears": verdict.float_linears,
        "kl": verdict.kl,
        "bytes": verdict.bytes,
    }


def proposed(verdicts: Sequence[Verdict], bound: float) -> Verdict | None:
    """The smallest of those that lose at most `bound`; of two of one size the one that loses less."""
    good = [verdict for verdict in verdicts if verdict.kl <= bound]
    return min(good, key=lambda verdict: (verdict.bytes, verdict.kl)) if good else None


def write_report(folder: str | Path, content: Mapping[str, Any]) -> list[Path]:
    """gate.json, gate.md and, where matplotlib is installed, gate.png in a folder; their paths."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / "gate.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(place / "gate.md", markdown(content))
    written = [place / "gate.json", place / "gate.md"]
    with contextlib.suppress(ImportError):
        written.append(_draw(place / "gate.png", content))
    return written


def markdown(content: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [f"# Quantisation gate (bound: KL {content['bound_kl']:g})", ""]
    proposal = content["proposal"]
    if proposal is None:
        lines.append("Nothing that was tried loses so little.")
    else:
        told = [f"scheme {proposal['scheme']}"]
        told += [f"groups of {proposal['group_size']}"] if proposal["group_size"] else []
        told += [f"float_layers_id {proposal['float_layers_id']}"] if proposal["float_layers_id"] else []
        told += [f"float linears {', '.join(proposal['float_linears'])}"] if proposal["float_linears"] else []
        lines.append(f"Proposed: {'; '.join(told)} (KL {proposal['kl']:.6f}, {proposal['bytes']:,} bytes of layers).")
    head = "| scheme | group | float layers | float linears | bytes | perplexity | KL | same top | greedy | C-Eval |"
    lines += ["", head, "|---" * 10 + "|"]
    for row in content["verdicts"]:
        greedy = "" if row["greedy"] is None else f"{row['greedy']:.1%}"
        ceval = "" if row["ceval"] is None else f"{row['ceval']:.3f} ({row['ceval_float']:.3f})"
        cells = [
            *(row["scheme"], str(row["group_size"] or "row"), ",".join(map(str, row["float_layers"]))),
            *(", ".join(row["float_linears"]), f"{row['bytes']:,}"),
            f"{row['perplexity']:.4f} ({row['perplexity_float']:.4f})",
            *(f"{row['kl']:.6f}", f"{row['same_top']:.2%}", greedy, ceval),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if content["layers"]:
        lines += ["", "| layer | error of the weight | error of its outputs |", "|---|---|---|"]
        worst = sorted(content["layers"], key=lambda row: -(row["outputs"] or row["weight"]))
        told = ["" if row["outputs"] is None else f"{row['outputs']:.3%}" for row in worst]
        lines += [f"| {row['name']} | {row['weight']:.3%} | {out} |" for row, out in zip(worst, told, strict=True)]
    return "\n".join(lines) + "\n"


def _draw(path: Path, content: Mapping[str, Any]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for row in content["verdicts"]:
        left.scatter(row["bytes"] / 1e6, max(row["kl"], 1e-9), label=_short(row))
    left.axhline(content["bound_kl"], linestyle="--", linewidth=1, color="grey")
    left.set(yscale="log", xlabel="MB of linear layers", ylabel="KL (nats per token)", title="size and loss")
    left.legend(fontsize=7)
    layers = content["layers"]
    right.bar(range(len(layers)), [row["outputs"] or row["weight"] for row in layers])
    right.set(xlabel="linear layer, in order", ylabel="relative error of outputs", title="per layer")
    with atomic_write(path) as file:
        canvas.print_png(file)
    return path


def _short(row: Mapping[str, Any]) -> str:
    told = row["scheme"] + (f" g{row['group_size']}" if row["group_size"] else "")
    told += f" float {','.join(map(str, row['float_layers']))}" if row["float_layers"] else ""
    return told + (f" float {','.join(row['float_linears'])}" if row["float_linears"] else "")
