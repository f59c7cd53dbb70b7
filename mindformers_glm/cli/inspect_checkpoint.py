"""Says what a checkpoint is: `mindformers-glm inspect PATH [--tensors] [--values]`.

Exit status 0 when nothing is wrong, 1 when something is, 2 when it cannot be read.
"""

from __future__ import annotations

import argparse
import json

from mindformers_glm.cli.options import Parser, whole


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("path", help="file, folder or registered name")
    p.add_argument("--config", help="YAML or config.json of the network, where none lies beside the weights")
    p.add_argument("--rank", type=whole(0), default=0, help="which rank_N folder to read")
    p.add_argument("--tensors", action="store_true", help="list every tensor")
    p.add_argument("--values", action="store_true", help="read every number and report what is not finite")
    p.add_argument("--json", action="store_true", help="the findings as JSON")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Prints the findings; the number of kinds of trouble decides the exit status."""
    args = parser().parse_args(arguments)
    from mindformers_glm.checkpoint.convert.inspection import inspect_checkpoint  # noqa: PLC0415 - reads weights

    found = inspect_checkpoint(args.path, config=args.config, rank=args.rank, values=args.values)
    if args.json:
        print(json.dumps({"facts": found.facts, "problems": found.problems, "tensors": found.tensors}, indent=1))
    else:
        for line in found.lines(tensors=args.tensors):
            print(line)
    return 1 if found.problems else 0
