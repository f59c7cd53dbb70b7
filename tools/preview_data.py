#!/usr/bin/env python3
"""The same as `mindformers-glm preview-data`; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("preview-data")
