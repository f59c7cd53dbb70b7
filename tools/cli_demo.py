#!/usr/bin/env python3
"""The same as `mindformers-glm cli-demo`: cli_demo.py of Cambricon's tutorial; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("cli-demo")
