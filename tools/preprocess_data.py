#!/usr/bin/env python3
"""Turns text into .bin/.idx pairs of token ids: ModelLink's tool of this name, with its arguments and file names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindformers_glm.cli import report  # noqa: E402
from mindformers_glm.data.preprocess.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(report(main))
