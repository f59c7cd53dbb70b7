"""Checks the suite's operators, layers, steps and exports on a device: `mindformers-glm conformance`.

Each check runs on the device in a process of its own and is compared with a float64 formula and with numbers recorded
on a CPU. Writes conformance.json and conformance.txt, to send to us. Exit status 1 when a check fails. On Ascend run it
twice: as it is, and with GLM_KERNELS=off (formulas instead of operators of Ascend).
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--device_target", choices=("CPU", "Ascend"), default="CPU")
    p.add_argument("--output_dir", default="conformance", help="folder of the two files (conformance)")
    p.add_argument("--only", metavar="NAME", help="checks of this name; * stands for anything: 'ascend.*'")
    p.add_argument("--ranks", type=whole(1, 2), default=1, help="2: the exchanges between two processes too (1)")
    p.add_argument(
        "--seconds", type=number(above=True), default=300.0, help="the longest that one check may take (300)"
    )
    p.add_argument("--list", action="store_true", help="print the checks and what each vouches for; run nothing")
    p.add_argument("--record", action="store_true", help="on a CPU: write the recorded numbers anew, for developers")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Runs the checks; 1 where one fails."""
    args = parser().parse_args(arguments)
    from mindformers_glm.conformance import recorded, report, runner  # noqa: PLC0415 - the checks import MindSpore
    from mindformers_glm.conformance.check import all_checks  # noqa: PLC0415
    from mindformers_glm.conformance.environment import machine  # noqa: PLC0415
    from mindformers_glm.runtime import require_device  # noqa: PLC0415

    known = all_checks()
    chosen = [check for name, check in known.items() if fnmatch.fnmatchcase(name, args.only or "*")]
    if not chosen:
        raise ConfigError("--only", args.only, f"Use one of {', '.join(known)}, or a pattern such as 'ascend.*'.")
    if args.list:
        for check in chosen:
            print(f"{check.name:24} {', '.join(check.kinds):28} {check.place}")
        return 0
    if not args.only and args.ranks == 1:
        chosen = [check for check in chosen if check.ranks == 1]
    require_device(args.device_target)
    tasks = [(check, kind) for check in chosen for kind in check.kinds]
    result = runner.run(
        tasks, args.device_target, seconds=args.seconds, told=lambda one: print(report.line(one), flush=True)
    )
    content = report.about(args.device_target, result.outcomes, machine())
    folder = Path(args.output_dir).expanduser()
    report.write(folder, content)
    print("\n" + report.text(content).partition("\n")[0])
    for row in content["look_at"]:
        print(f"look at {row['place']}; switch off: {row['switch_off']}")
    print(f"{folder / 'conformance.json'}, {folder / 'conformance.txt'}: please send us both")
    failed = content["counts"]["fail"] > 0
    if args.record and not failed and args.device_target == "CPU" and not args.only:
        print(f"recorded {recorded.write(result.answers)} arrays in {recorded.FILE}")
    return 1 if failed else 0
