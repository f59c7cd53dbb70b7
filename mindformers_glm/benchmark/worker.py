"""The process that measures: settings as JSON in, figures as JSON out. processes.py starts it."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from typing import Any

from mindformers_glm import runtime
from mindformers_glm.benchmark.machine import Machine, forget_peak, kernel_name, peak_bytes, versions
from mindformers_glm.benchmark.settings import Settings
from mindformers_glm.errors import UserError
from mindformers_glm.models.family import imported
from mindformers_glm.ops.kernels.library import library

_WORK = {  # imported when it is asked for: what generates by kernels needs no MindSpore
    "train": "mindformers_glm.benchmark.training:Training",
    "prefill": "mindformers_glm.benchmark.running:Prefill",
    "decode": "mindformers_glm.benchmark.running:Decode",
    "ops": "mindformers_glm.benchmark.operators:Operators",
}
_BY_KERNELS = ("prefill", "decode")


def run(settings: Settings, *, begun: float) -> dict[str, Any]:
    """Figures of one measurement; `begun` is time.monotonic() where the process was started."""
    is_plain = settings.what in _BY_KERNELS and library() is not None
    if not is_plain:
        runtime.set_up({"device_target": "CPU"}, seed=1)
    work = imported(_WORK[settings.what])(settings)
    start = time.monotonic() - begun
    built = peak_bytes()
    forget_peak()
    figures = work.measure()
    peak = peak_bytes()
    if is_plain and find_spec("mindspore") is not None:
        runtime.set_up({"device_target": "CPU"}, seed=1)  # its matmul says what the machine can do
    whole = max(built, peak_bytes())
    machine = Machine.measure(settings.threads)
    return {
        **settings.plain(),
        "start_s": start,
        **figures,
        "peak_bytes": peak,
        "process_peak_bytes": whole,  # without the gigabyte that measuring the machine takes
        **work.shares(figures, machine),
        "machine": machine._asdict(),
        "kernels": kernel_name(),
        "versions": versions(),
    }


def main() -> int:
    """Prints the figures as the last line; what a user can repair goes to standard error as one line."""
    given = json.loads(sys.argv[1])
    begun = given.pop("begun")
    try:
        print(json.dumps(run(Settings.from_plain(given), begun=begun)))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
