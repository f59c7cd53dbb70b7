"""Speed over sequence length, batch or context as a picture. Needs matplotlib: the extra `plot`."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.benchmark.processes import measure, run_program
from mindformers_glm.benchmark.report import disturbance
from mindformers_glm.benchmark.settings import STEPS, Settings
from mindformers_glm.errors import ConfigError, DeviceError, UserError
from mindformers_glm.files import atomic_write

_TOKENS_PER_STEP = 2048
_SPEEDS = ("decode_tokens_per_s", "tokens_per_s")  # what a peer's line may call its speed
_OPTIONS = {"batch": "--batch", "length": "--context"}


class Chart(NamedTuple):
    """The field of Settings that is varied, the points unless others are asked for, and the words beside the axes."""

    work: str
    varied: str
    points: tuple[int, ...]
    axis: str
    title: str


CHARTS = {
    "train_sequence": Chart("train", "length", (128, 256, 512, 1024, 2048), "sequence length", "training"),
    "decode_batch": Chart("decode", "batch", (1, 2, 4, 8, 16), "sequences at once", "decoding"),
    "decode_context": Chart("decode", "length", (256, 512, 1024, 2048, 4096), "tokens of context", "decoding"),
}


def settings_of(name: str, point: int, given: Mapping[str, Any]) -> Settings:
    """The run of a point: `given` fields of Settings, and what the chart varies.

    Training takes as many sequences as make 2,048 tokens a step unless `batch` is among them.

    Raises:
        ConfigError: they do not fit together, or what the chart varies is among them.
    """
    work, varied = CHARTS[name].work, CHARTS[name].varied
    if varied in given:
        raise ConfigError(_OPTIONS[varied], given[varied], f"{name} varies it: name the points with --points.")
    usual: dict[str, Any] = {"steps": STEPS[work]}
    if name == "train_sequence":
        usual["batch"] = max(1, _TOKENS_PER_STEP // point)
    return Settings(**{**usual, **given, varied: point, "what": work})


class Peer(NamedTuple):
    """Another program in the picture: its name there, and its command, in which {point} stands for the point."""

    name: str
    command: str

    def words(self, point: int) -> list[str]:
        """The command of a point."""
        return shlex.split(self.command.replace("{point}", str(point)))

    def speed(self, point: int, threads: int) -> float:
        """Tokens per second as the program's last JSON line tells them.

        Raises:
            UserError: it could not be started, failed, or told no speed.
        """
        last = run_program(self.words(point), threads=threads).rows[-1]
        found = next((last[key] for key in _SPEEDS if isinstance(last.get(key), (int, float))), None)
        if found is None:
            raise UserError(f"{self.name}: its last line has no number {' or '.join(_SPEEDS)}: {sorted(last)}")
        return float(found)


def read_peer(text: str) -> Peer:
    """A peer as `NAME=COMMAND`.

    Raises:
        ConfigError: it is no such pair, or the command cannot be read or does not say where the point goes.
    """
    name, _, command = (part.strip() for part in text.partition("="))
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError("--peer", text, f"The command cannot be read ({error}).") from error
    if not name or not words or not any("{point}" in word for word in words):
        raise ConfigError("--peer", text, "Write 'NAME=PROGRAM ... {point} ...': {point} is what the chart varies.")
    if shutil.which(words[0]) is None:
        raise ConfigError("--peer", words[0], "There is no such program. Check the path.")
    return Peer(name, command)


def run_chart(
    name: str, runs: Sequence[tuple[int, Settings]], *, show: Callable[[str], None], peers: Sequence[Peer] = ()
) -> dict[str, Any]:
    """The figures of every point, measured one after the other, and those of the peers after ours of the same point.

    Raises:
        UserError: a run failed, or a peer told no speed.
    """
    found, theirs, threads = [], list[dict[str, Any]](), runs[0][1].threads
    last = {point: place for place, (point, _) in enumerate(runs)}
    for place, (point, settings) in enumerate(runs):
        figures = measure(settings)
        found.append({"point": point, **figures})
        speed = f"{figures['tokens_per_s']:,.1f} tokens/s"
        show(f"{CHARTS[name].axis} {point}, {settings.dtype}: {speed}, peak {figures['peak_bytes'] / 1e6:,.0f} MB")
        for line in disturbance([figures["others_share"]]):
            show(line)
        for peer in peers if last[point] == place else ():
            told = peer.speed(point, threads)
            theirs.append({"peer": peer.name, "point": point, "tokens_per_s": told})
            show(f"{CHARTS[name].axis} {point}, {peer.name}: {told:,.1f} tokens/s")
    return {"what": name, "points": found, **({"peers": theirs} if theirs else {})}


def require_matplotlib() -> None:
    """Raises DeviceError where there is no matplotlib, before anything is measured."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        import matplotlib.figure  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise DeviceError("chart: matplotlib is not installed. pip install 'mindformers_glm[plot]'") from error


def draw(figures: dict[str, Any], path: Path) -> Path:
    """Writes the picture: a line of tokens per second for each dtype, and a dashed one for each peer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    chart, rows = CHARTS[figures["what"]], figures["points"]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        mine = [row for row in rows if row["dtype"] == dtype]
        axes.plot([row["point"] for row in mine], [row["tokens_per_s"] for row in mine], marker="o", label=dtype)
    for peer in dict.fromkeys(row["peer"] for row in figures.get("peers", ())):
        theirs = sorted((row["point"], row["tokens_per_s"]) for row in figures["peers"] if row["peer"] == peer)
        axes.plot(*zip(*theirs, strict=True), marker="s", markersize=4, linestyle="--", label=peer)
    points = sorted({row["point"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(points, [str(point) for point in points])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(chart.axis)
    axes.set_ylabel("tokens/s")
    first = rows[0]
    axes.set_title(f"{chart.title}  {first['shape']}  {first['threads']} threads", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as file:
        canvas.print_png(file)
    return path


def read_points(text: str) -> tuple[int, ...]:
    """Points as `128,256`.

    Raises:
        ConfigError: something else than whole numbers.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise ConfigError("--points", text, "Give whole numbers with commas between, for example 128,256,512.")
    return tuple(int(part) for part in parts)
