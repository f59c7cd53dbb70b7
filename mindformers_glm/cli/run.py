"""The command line behind run_mindformer.py: reads the configuration, sets up the device, runs one mode."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.cli.report import report


def main(argv: Sequence[str] | None = None, *, script_dir: Path | None = None) -> int:
    """Exit status of one command: 0 done, 2 something the user can repair, 1 training that ended early, 130 Ctrl-C."""

    def work() -> None:
        run(argv, script_dir=script_dir)

    return report(work)


def run(argv: Sequence[str] | None = None, *, script_dir: Path | None = None) -> Any:
    """What the run mode returns: a training state, a metric's results, or predictions.

    Raises:
        UserError: the command line, the configuration, a file or the device is not as it must be.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        from mindformers_glm import runtime  # noqa: PLC0415

        return runtime.serve_as_scheduler()
    from mindformers_glm.config.arguments import parse_command_line  # noqa: PLC0415

    config, _ = parse_command_line(argv, script_dir=script_dir)
    from mindformers_glm.tasks.task import run_task  # noqa: PLC0415 - `--help` works without MindSpore

    return run_task(config)


def evaluate(argv: Sequence[str]) -> int:
    """`mindformers-glm evaluate`: run mode eval."""
    return main(["--run_mode", "eval", *argv])


def predict(argv: Sequence[str]) -> int:
    """`mindformers-glm predict`: run mode predict."""
    return main(["--run_mode", "predict", *argv])


def parser() -> argparse.ArgumentParser:
    """The options of all three, for completion."""
    from mindformers_glm.config.arguments import build_parser  # noqa: PLC0415

    return build_parser()
