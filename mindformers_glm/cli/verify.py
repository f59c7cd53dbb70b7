"""Checks a checkpoint on disk: `mindformers-glm verify PATH`. Exit status 0 when it is sound.

A folder is compared with its manifest byte for byte; a .ckpt with the checksum inside it, where there is one.
"""

from __future__ import annotations

import argparse
import sys

from mindformers_glm.cli.options import Parser


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("path", help="folder or file")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Prints what was compared, and every fault; 1 where there is one."""
    args = parser().parse_args(arguments)
    from tqdm import tqdm  # noqa: PLC0415 - not for --help

    from mindformers_glm.checkpoint.convert.verify import bytes_to_check, verify  # noqa: PLC0415 - reads weights

    with tqdm(total=bytes_to_check(args.path), unit="B", unit_scale=True, file=sys.stderr) as bar:
        verdict = verify(args.path, progress=bar.update)
    for line in verdict.checked:
        print(f"ok    {line}")
    for line in verdict.notes:
        print(f"note  {line}")
    for line in verdict.faults:
        print(f"FAULT {line}")
    print("sound" if not verdict.faults else f"{len(verdict.faults)} faults")
    return 1 if verdict.faults else 0
