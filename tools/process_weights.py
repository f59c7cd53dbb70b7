#!/usr/bin/env python3
"""The same as `mindformers-glm process-weights`: weights by rank, of the ATB guide; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("process-weights")
