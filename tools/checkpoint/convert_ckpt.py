#!/usr/bin/env python3
"""The same as `mindformers-glm modellink-convert`: convert_ckpt.py of ModelLink; `--help` tells the options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where command.py lies

from command import run  # noqa: E402

if __name__ == "__main__":
    run("modellink-convert")
