"""Parts of command lines: a parser whose faults are one line, and readers of numbers with their ranges."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mindformers_glm.errors import cut_words

LARGEST = 2**31 - 1
A_VALUE = re.compile(r"-(?!-)")  # argparse: a word with one minus is a value (-5, -5度), for options have two


class Parser(argparse.ArgumentParser):
    """A fault is one line on the standard error and exit status 2; the usage is what --help prints."""

    def __init__(self, **given: Any) -> None:
        given.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        given.setdefault("allow_abbrev", False)
        super().__init__(**given)
        self._negative_number_matcher = A_VALUE

    def error(self, message: str) -> NoReturn:
        """Prints the line and ends the program."""
        sys.stdout.flush()
        self.exit(2, f"error: {cut_words(message.removeprefix('argument '))}. See {self.prog} --help\n")


def whole(least: int = 1, most: int = LARGEST) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`, for `type=` of an option."""

    def read(text: str) -> int:
        number = int(text) if _is_whole(text) else None
        if number is None or not least <= number <= most:
            between = f"from {least} to {most}" if most < LARGEST else f"of at least {least}, at most {most}"
            raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give a whole number {between}")
        return number

    return read


def number(least: float = 0.0, most: float = float("inf"), *, above: bool = False) -> Callable[[str], float]:
    """A reader of finite numbers from `least` (itself left out with `above`) to `most`, for `type=` of an option."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least < value if above else least <= value) or not value <= most or value == float("inf"):
            low = f"above {least:g}" if above else f"of at least {least:g}"
            high = "" if most == float("inf") else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give a finite number {low}{high}")
        return value

    return read


def _is_whole(text: str) -> bool:
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 20
