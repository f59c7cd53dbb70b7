#!/usr/bin/env python3
"""Says what a checkpoint is: `python tools/inspect_checkpoint.py PATH [--tensors] [--values]`.

Exit status 0 when nothing is wrong, 1 when something is, 2 when it cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindformers_glm.checkpoint.inspection import inspect_checkpoint  # noqa: E402
from mindformers_glm.errors import UserError  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Prints the findings; the number of kinds of trouble decides the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("path", help="file, folder or registered name")
    p.add_argument("--config", help="YAML or config.json of the network, where none lies beside the weights")
    p.add_argument("--rank", type=int, default=0, help="which rank_N folder to read")
    p.add_argument("--tensors", action="store_true", help="list every tensor")
    p.add_argument("--values", action="store_true", help="read every number and report what is not finite")
    p.add_argument("--json", action="store_true", help="the findings as JSON")
    args = p.parse_args(arguments)
    found = inspect_checkpoint(args.path, config=args.config, rank=args.rank, values=args.values)
    if args.json:
        print(json.dumps({"facts": found.facts, "problems": found.problems, "tensors": found.tensors}, indent=1))
    else:
        for line in found.lines(tensors=args.tensors):
            print(line)
    return 1 if found.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"inspect_checkpoint: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
