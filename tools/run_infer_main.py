#!/usr/bin/env python3
"""The same as `mindformers-glm infer-lite`; `--help` tells the options."""

from command import run


def typed(*given):
    """Prompts from the terminal; see mindformers_glm/cli/lite_chat.py."""
    from mindformers_glm.cli.lite_chat import typed as prompts  # noqa: PLC0415 - told in one line where it is missing

    return prompts(*given)


if __name__ == "__main__":
    run("infer-lite")
