#!/usr/bin/env python3
"""The same as `mindformers-glm web-demo`: that of Cambricon and of the ATB guide; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("web-demo")
