#!/usr/bin/env python3
"""Checks a checkpoint on disk: `python tools/verify_checkpoint.py PATH`. Exit status 0 when it is sound.

A folder is compared with its manifest byte for byte; a .ckpt with the checksum inside it, where there is one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindformers_glm.checkpoint.verify import bytes_to_check, verify  # noqa: E402
from mindformers_glm.errors import UserError  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Prints what was compared, and every fault."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("path", help="folder or file")
    args = p.parse_args(arguments)
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


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"verify_checkpoint: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
