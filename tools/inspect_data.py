#!/usr/bin/env python3
"""The same as `mindformers-glm inspect-data`; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("inspect-data")
