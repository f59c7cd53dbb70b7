#!/usr/bin/env python3
"""Examines a rank table before a job does: `python tools/check_hccl.py hccl_2s_16p.json`. Exit status 1 on errors.

Standard library only, Python 3.7 or later.
"""

from __future__ import annotations

import sys
from typing import Any

import rank_table
from rank_table import Finding, TableError


def check_ranks(content: dict[str, Any], expected: str) -> list[Finding]:
    """Findings where the table gives a rank another device than the launch script does ("0:4,1:5" is rank:device)."""
    devices = {
        int(entry["rank_id"]): entry["device_id"] for server in content["server_list"] for entry in server["device"]
    }
    findings = []
    for pair in expected.split(","):
        rank, _, device = pair.partition(":")
        if not (rank_table.is_number(rank) and rank_table.is_number(device)):
            raise TableError(f"--ranks: got {expected!r}. Write rank:device pairs with commas.")
        known = devices.get(int(rank))
        if known != str(int(device)):
            says = "has no such rank" if known is None else f"puts it on device {known}"
            cure = "Generate the table for the devices that the job uses, or change the device range"
            findings.append(
                Finding("error", f"rank {rank}", f"the job starts it on device {device}, the table {says}", cure)
            )
    return findings


def check_size(content: dict[str, Any], size: int) -> list[Finding]:
    """A finding when the table does not have `size` devices in all."""
    total = sum(len(server["device"]) for server in content["server_list"])
    if total == size:
        return []
    cure = "Every process waits for all the devices in the table: make both numbers equal"
    return [Finding("error", "devices", f"the table has {total}, the job {size}", cure)]


def describe(content: dict[str, Any]) -> str:
    """The servers with their ranks, and the msrun arguments that start the same job without a table."""
    servers = content["server_list"]
    total = sum(len(server["device"]) for server in servers)
    lines = [f"{len(servers)} server{'s' * (len(servers) > 1)}, {total} devices"]
    for node, server in enumerate(servers):
        ranks = [int(entry["rank_id"]) for entry in server["device"]]
        lines.append(f"server {server['server_id']}: ranks {min(ranks)} to {max(ranks)}")
        arguments = f"--worker_num={total} --local_worker_num={len(ranks)} --node_rank={node}"
        lines.append(f"  the same without a table: msrun {arguments} --master_addr={servers[0]['server_id']}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Prints what was found; 1 when the table has an error, else 0."""
    parser = rank_table.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("table", metavar="RANK_TABLE_FILE")
    parser.add_argument("--rank_size", type=int, help="how many devices the job uses in all")
    parser.add_argument("--ranks", help='what the launch script starts here: "0:0,1:1" is rank:device')
    parser.add_argument("--prefix", type=int, default=24, help="bits of the subnet in a device address (netmask), 24")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    args = parser.parse_args(arguments)
    content = rank_table.read(args.table)
    findings = rank_table.examine(content, prefix=args.prefix)
    if args.rank_size is not None:
        findings += check_size(content, args.rank_size)
    if args.ranks:
        findings += check_ranks(content, args.ranks)
    errors = [finding for finding in findings if finding.level == "error"]
    for finding in errors if args.quiet else findings:
        print(f"{args.table}: {finding}", file=sys.stderr if args.quiet else sys.stdout)
    if not args.quiet:
        print(describe(content))
        print("The table has errors." if errors else "The table is good.")
    return 1 if errors else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TableError as fault:
        sys.exit(f"check_hccl: {fault}")
