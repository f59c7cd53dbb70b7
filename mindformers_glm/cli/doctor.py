"""Examines this machine: `mindformers-glm doctor [--device_target Ascend]`. One line for each thing, with what to do.

Exit status 1 when something fails; warnings stop nothing. `mindformers-glm conformance` then computes on the device.
"""

from __future__ import annotations

import argparse
import json
import os

from mindformers_glm.cli.options import Parser
from mindformers_glm.files import write_text


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--device_target", choices=("CPU", "Ascend"), default="CPU")
    p.add_argument("--rank_table", metavar="FILE", help="a rank table to examine (RANK_TABLE_FILE)")
    p.add_argument("--json", metavar="FILE", help="the findings as JSON too")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Prints the findings; 1 where one is a failure."""
    args = parser().parse_args(arguments)
    from mindformers_glm.conformance import doctor  # noqa: PLC0415

    environment = dict(os.environ)
    if args.rank_table:
        environment["RANK_TABLE_FILE"] = args.rank_table
    findings = doctor.examine(args.device_target, doctor.Machine(environment=environment))
    for finding in findings:
        print(finding)
    content = doctor.plain(findings, args.device_target)
    if args.json:
        write_text(args.json, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    levels = [finding.level for finding in findings]
    verdict = "fit" if content["fit"] else "not fit"
    counts = ", ".join(f"{levels.count(level)} {level}" for level in (doctor.OK, doctor.WARN, doctor.FAIL))
    print(f"{verdict} for {args.device_target}: {counts}")
    return 0 if content["fit"] else 1
