"""What a run takes of the machine, sampled beside it: memory and CPU of its processes, and the device's own tool."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from mindformers_glm.files import write_text
from mindformers_glm.log import log_once

_TOOLS = {  # what prints figures of devices, where it is installed
    "npu-smi": ("npu-smi", "info"),
    "cnmon": ("cnmon", "info"),
    "nvidia-smi": ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"),
}
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """Seconds since the beginning, CPU in percent of one core, memory of the process and its children."""

    seconds: float
    cpu_percent: float
    memory_mb: float


class Monitor:
    """Samples this process and its children from `with` to its end; writes FILE.csv and, with matplotlib, FILE.png.

    Where npu-smi, cnmon or nvidia-smi is installed, what it prints is kept in FILE.devices.txt at every tenth sample.
    """

    def __init__(self, path: Path, *, interval: float = 0.5) -> None:
        self.path, self.interval = Path(path), interval
        self.samples: list[Sample] = []
        self._tool = next((words for name, words in _TOOLS.items() if shutil.which(name)), None)
        self._said: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._begin, self._last = time.monotonic(), (time.monotonic(), _usage()[0])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._take()
        self.write()

    def write(self) -> None:
        """Writes what was sampled."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{row.seconds:.2f},{row.cpu_percent:.1f},{row.memory_mb:.1f}\n" for row in self.samples)
        write_text(self.path, "time_s,cpu_percent,memory_mb\n" + rows)
        if self._said:
            write_text(self.path.with_suffix(".devices.txt"), "\n".join(self._said) + "\n")
        _draw(self.samples, self.path.with_suffix(".png"))

    def _run(self) -> None:
        while not self._end.wait(self.interval):
            self._take()
            if self._tool is not None and len(self.samples) % 10 == 1:
                self._ask()

    def _take(self) -> None:
        now, (ticks, pages) = time.monotonic(), _usage()
        before, spent = self._last
        self._last = (now, ticks)
        share = max(0.0, (ticks - spent) / _TICK / max(now - before, 1e-3) * 100)
        self.samples.append(Sample(now - self._begin, share, pages * _PAGE / 1e6))

    def _ask(self) -> None:
        try:
            done = subprocess.run(self._tool or (), capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            self._tool = None
            return
        self._said.append(f"{time.monotonic() - self._begin:.1f} s\n{done.stdout.strip()}")


def _usage() -> tuple[int, int]:
    """CPU ticks and resident pages of this process and all below it."""
    parents: dict[int, int] = {}
    figures: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.name)] = int(fields[1])
        figures[int(entry.name)] = (int(fields[11]) + int(fields[12]), int(fields[21]))
    own, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in own} - own
        own, grown = own | more, bool(more)
    rows = [figures[pid] for pid in own if pid in figures]
    return sum(ticks for ticks, _ in rows), sum(pages for _, pages in rows)


def _draw(samples: list[Sample], path: Path) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        log_once("No picture of CPU and memory is drawn: install matplotlib (pip install 'mindformers_glm[plot]').")
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(2, 1, sharex=True), ("cpu_percent", "memory_mb"), strict=True):
        axes.plot([row.seconds for row in samples], [getattr(row, name) for row in samples])
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("seconds")
    canvas.print_png(str(path))
