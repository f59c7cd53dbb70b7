#!/usr/bin/env python3
"""The same as `mindformers-glm fastchat-train`: FastChat's trainer; `--help` tells the options."""

from command import run

if __name__ == "__main__":
    run("fastchat-train")
