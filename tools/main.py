#!/usr/bin/env python3
"""The same as `mindformers-glm atb`: main.py of the ATB guide; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("atb")
