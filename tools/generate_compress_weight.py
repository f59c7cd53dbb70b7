#!/usr/bin/env python3
"""The same as `mindformers-glm compress-weights`: compressed weights, of the ATB guide; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("compress-weights")
