"""The command line behind run_mindformer.py: reads the configuration, sets up the device, runs one mode."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.errors import UserError
from mindformers_glm.signals import terminated_as_interrupted

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None, *, script_dir: Path | None = None) -> int:
    """Exit status of one command: 0 done, 2 something the user can repair, 1 training that ended early, 130 Ctrl-C."""
    return report(lambda: run(argv, script_dir=script_dir))


def report(work: Callable[[], Any]) -> int:
    """Exit status of `work`; what a user can repair is printed as it is, without a traceback."""
    try:
        with terminated_as_interrupted():
            work()
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except PermissionError as error:
        print(f"error: {error.filename}: may not be written. Choose another place with --output_dir.", file=sys.stderr)
        return UserError.exit_status
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return _INTERRUPTED
    return 0


def run(argv: Sequence[str] | None = None, *, script_dir: Path | None = None) -> Any:
    """What the run mode returns: a training state, a metric's results, or predictions.

    Raises:
        UserError: the command line, the configuration, a file or the device is not as it must be.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        from mindformers_glm import runtime  # noqa: PLC0415

        return runtime.serve_as_scheduler()
    import mindformers_glm  # noqa: F401, PLC0415 - fills the registries; `--help` works without MindSpore
    from mindformers_glm.config.arguments import parse_command_line  # noqa: PLC0415
    from mindformers_glm.train.task import run_task  # noqa: PLC0415

    config, _ = parse_command_line(argv, script_dir=script_dir)
    return run_task(config)
