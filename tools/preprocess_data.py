#!/usr/bin/env python3
"""The same as `mindformers-glm preprocess`; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("preprocess")
