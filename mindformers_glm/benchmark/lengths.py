"""Lists of lengths as command lines have them: 256,512,1024 or [256, 512, 1024]."""

from __future__ import annotations

import argparse

_MOST = 2**24


def read_lengths(text: str) -> list[int]:
    """The numbers of a list, for `type=` of an option."""
    parts = [part.strip() for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= _MOST for part in parts):
        raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give whole numbers with commas between: 256,512,1024")
    return [int(part) for part in parts]
