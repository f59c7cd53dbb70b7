#!/usr/bin/env python3
"""Joins the rank tables of several servers: `python tools/merge_hccl.py hccl_8p_*.json`.

Servers keep the order of the arguments (or of their addresses with --sort) and ranks are numbered anew from 0.
Standard library only, Python 3.7 or later.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import rank_table
from rank_table import TableError

_OUTPUT_NAME = re.compile(r"hccl_[0-9]+s_[0-9]+p\.json")


def select(paths: list[str]) -> list[str]:
    """The files to merge: without earlier outputs of this tool, which a shell pattern picks up.

    Raises:
        TableError: one file given twice, or fewer than two left.
    """
    kept: list[str] = []
    for path in paths:
        if _OUTPUT_NAME.fullmatch(Path(path).name):
            print(f"{path}: skipped, it is the result of an earlier merge", file=sys.stderr)
            continue
        if any(Path(path).resolve() == Path(other).resolve() for other in kept):
            raise TableError(f"{path}: given twice. Name each server's table once.")
        kept.append(path)
    if len(kept) < 2:
        raise TableError(f"{len(kept)} table to merge. Name the tables of two or more servers.")
    return kept


def collect(paths: list[str]) -> list[dict[str, Any]]:
    """Every server of the tables, in order.

    Raises:
        TableError: a table with an error of its own, or a server or device address that two tables have.
    """
    servers: list[dict[str, Any]] = []
    owners: dict[str, str] = {}
    for path in paths:
        content = rank_table.read(path)
        faults = [finding for finding in rank_table.examine(content) if finding.level == "error"]
        if faults:
            raise TableError(f"{path}: {faults[0].place}: {faults[0].fault}. {faults[0].cure}.")
        for server in content["server_list"]:
            names = [f"server {server['server_id']}"] + [f"address {entry['device_ip']}" for entry in server["device"]]
            for name in names:
                if name in owners:
                    raise TableError(
                        f"{path}: {name} is already in {owners[name]}. Generate each table on its own server."
                    )
                owners[name] = path
            servers.append(server)
    return servers


def merge(servers: list[dict[str, Any]]) -> dict[str, Any]:
    """One table of all servers, ranks 0.. in the order of the servers and of the devices in each."""
    rank, parts = 0, []
    for server in servers:
        devices = []
        for entry in sorted(server["device"], key=lambda item: int(item["rank_id"])):
            devices.append(rank_table.device(entry["device_id"], entry["device_ip"], rank))
            rank += 1
        parts.append((server["server_id"], devices))
    return rank_table.table(parts)


def main(arguments: list[str] | None = None) -> Path:
    """Writes `hccl_<servers>s_<devices>p.json` in the working directory and returns its path."""
    parser = rank_table.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("file_list", nargs="+", metavar="FILE", help="the table of one server")
    parser.add_argument("--sort", action="store_true", help="order the servers by server_id, as MindSpore documents it")
    args = parser.parse_args(arguments)
    servers = collect(select(args.file_list))
    if args.sort:
        servers.sort(key=lambda server: server["server_id"])
    content = merge(servers)
    errors = [finding for finding in rank_table.examine(content) if finding.level == "error"]
    if errors:
        raise TableError(f"the merged table: {errors[0].place}: {errors[0].fault}. {errors[0].cure}.")
    total = sum(len(server["device"]) for server in servers)
    for server in content["server_list"]:
        ranks = [entry["rank_id"] for entry in server["device"]]
        print(f"server {server['server_id']}: ranks {ranks[0]} to {ranks[-1]}")
    path = Path.cwd() / f"hccl_{len(servers)}s_{total}p.json"
    rank_table.write(path, content)
    print(f"Completed: hccl file was save in : {path}")
    return path


if __name__ == "__main__":
    try:
        main()
    except TableError as fault:
        sys.exit(f"merge_hccl: {fault}")
    except OSError as fault:
        sys.exit(f"merge_hccl: the table could not be written: {fault}")
