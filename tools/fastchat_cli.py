#!/usr/bin/env python3
"""The same as `mindformers-glm fastchat-cli`: FastChat's chat in the terminal; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("fastchat-cli")
