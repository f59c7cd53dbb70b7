"""Runs a task from one YAML: `python run_mindformer.py --config YAML --run_mode finetune`."""

import sys
from pathlib import Path

from mindformers_glm.requirements import require


def start():
    """The exit status."""
    require()
    from mindformers_glm.cli.run import main  # noqa: PLC0415 - an unfit Python is told first

    return main(script_dir=Path(__file__).resolve().parent)


if __name__ == "__main__":
    sys.exit(start())
