"""Lists of lengths as command lines have them, 256,512,1024 or [256, 512, 1024], and pairs of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mindformers_glm.errors import ConfigError

# Of the CSV of pairs, as the ATB guide's program writes them.
PAIR_COLUMNS = (
    "Batch",
    "InputSeqLen(Encoding)",
    "OutputSeqLen(Decoding)",
    "TimeOfFirstToken(ms)",
    "TimePerToken(ms)",
    "TimeTotal(s)",
    "Throughput(tokens/s)",
    "ThroughputE2E(tokens/s)",
)
_MOST = 2**24


def read_lengths(text: str) -> list[int]:
    """The numbers of a list, for `type=` of an option."""
    parts = [part.strip() for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= _MOST for part in parts):
        raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give whole numbers with commas between: 256,512,1024")
    return [int(part) for part in parts]


def check_pairs(inputs: Sequence[int], outputs: Sequence[int], *, longest: int) -> list[tuple[int, int]]:
    """Pairs of prompt and reply lengths, first with first and so on.

    Raises:
        ConfigError: not as many of one as of the other, a reply below two tokens, or a pair beyond `longest` tokens.
    """
    if len(inputs) != len(outputs):
        fix = f"--seqlen_in_pair has {len(inputs)} lengths and --seqlen_out_pair {len(outputs)}: they make pairs."
        raise ConfigError("--seqlen_out_pair", ",".join(map(str, outputs)), fix)
    for given, wanted in zip(inputs, outputs, strict=True):
        if wanted < 2:
            raise ConfigError("--seqlen_out_pair", wanted, "Use 2 or more: the time of a token needs a second one.")
        if given + wanted > longest:
            fix = f"{given} + {wanted} tokens exceed it. export MAX_SEQ_LEN={given + wanted}"
            raise ConfigError("MAX_SEQ_LEN", longest, fix)
    return list(zip(inputs, outputs, strict=True))
