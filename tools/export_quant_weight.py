#!/usr/bin/env python3
"""The same as `mindformers-glm export-quant-weight`: W8A8 files of the ATB guide; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("export-quant-weight")
