"""Reading, checking and writing Ascend rank tables: JSON that names the servers, devices, addresses and ranks of a job.

Standard library only, Python 3.7 or later: it runs on a bare server beside the driver, where nothing is installed.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import json
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

VERSION, STATUS, NIC = "1.0", "completed", "reserve"


class TableError(Exception):
    """A rank table or an argument that cannot be used: one line that says what and how to repair it."""

    def __init__(self, message: str) -> None:
        super().__init__(on_one_line(message))


class Parser(argparse.ArgumentParser):
    """A fault is one line on the standard error and exit status 2; the usage is what --help prints."""

    def error(self, message: str) -> NoReturn:
        """Prints the line and ends the program."""
        self.exit(2, f"error: {on_one_line(message)}. See {self.prog} --help\n")


def on_one_line(message: str) -> str:
    """The message with what does not print escaped, and words of more than 120 characters cut."""
    text = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in message)
    return re.sub(r"(\S{120})\S{4,}", r"\1...", text)


class Finding(NamedTuple):
    """One thing the doctor says about a table. Errors stop a job, warnings may."""

    level: str
    place: str
    fault: str
    cure: str

    def __str__(self) -> str:
        return f"{self.level}: {self.place}: {self.fault}. {self.cure}"


def device(device_id: str, address: str, rank: int) -> dict[str, str]:
    """One device of a server as the table writes it: every value is a string."""
    return {"device_id": device_id, "device_ip": address, "rank_id": str(rank)}


def table(servers: list[tuple[str, list[dict[str, str]]]]) -> dict[str, Any]:
    """A complete table of (server_id, devices), keys in the documented order."""
    return {
        "version": VERSION,
        "server_count": str(len(servers)),
        "server_list": [{"server_id": name, "device": devices, "host_nic_ip": NIC} for name, devices in servers],
        "status": STATUS,
    }


def read(path: str) -> dict[str, Any]:
    """The table in a file.

    Raises:
        TableError: no file, not JSON, or a part that is missing or of another type.
    """
    try:
        content = json.loads(read_text(Path(path)))
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}). Generate it with tools/hccl_tools.py.") from error
    except RecursionError as error:
        raise TableError(f"{path}: not JSON (nested too deep). Generate it again with tools/hccl_tools.py.") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 text. Generate it again with tools/hccl_tools.py.") from error
    except ValueError as error:
        raise TableError(f"{path}: not JSON ({error}). Generate it again with tools/hccl_tools.py.") from error
    _require(isinstance(content, dict) and isinstance(content.get("server_list"), list), path, "server_list")
    _require(bool(content["server_list"]), path, "a server in server_list")
    for position, server in enumerate(content["server_list"]):
        place = f"server_list[{position}]"
        _require(isinstance(server, dict) and isinstance(server.get("server_id"), str), path, f"{place}.server_id")
        _require(isinstance(server.get("device"), list) and server["device"], path, f"{place}.device")
        for number, entry in enumerate(server["device"]):
            for key in ("device_id", "device_ip", "rank_id"):
                good = isinstance(entry, dict) and isinstance(entry.get(key), str)
                _require(good, path, f"{place}.device[{number}].{key} (a string)")
            for key in ("device_id", "rank_id"):
                _require(is_number(entry[key]), path, f"digits in {place}.device[{number}].{key}")
    return content


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a regular file; a pipe or a device is never waited for.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device")
    return path.read_text(encoding="utf-8", errors=errors)


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a table with indent 4; the file appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=4) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, str(path))
    except BaseException:
        os.unlink(temporary)
        raise


def is_number(text: str) -> bool:
    """True for ASCII digits only."""
    return text.isascii() and text.isdigit()


def examine(content: dict[str, Any], *, prefix: int = 24) -> list[Finding]:
    """Everything suspicious in a table, errors first. `prefix` is the assumed length of the subnet part."""
    servers = content["server_list"]
    findings = _header(content, servers) + _servers(servers) + _devices(servers) + _ranks(servers)
    findings += _subnets(servers, prefix)
    return sorted(findings, key=lambda finding: finding.level != "error")


def _require(good: bool, path: str, what: str) -> None:
    if not good:
        raise TableError(f"{path}: {what} is missing or wrong. Generate the table again with tools/hccl_tools.py.")


def _header(content: dict[str, Any], servers: list[dict[str, Any]]) -> list[Finding]:
    findings = []
    if content.get("version") != VERSION:
        cure = f"HCCL reads version {VERSION} here; generate the table again"
        findings.append(Finding("error", "version", f"got {content.get('version')!r}", cure))
    if content.get("status") != STATUS:
        cure = "The table was not finished; wait for its writer or generate it again"
        findings.append(Finding("error", "status", f"got {content.get('status')!r}, expected {STATUS!r}", cure))
    if content.get("server_count") != str(len(servers)):
        fault = f"got {content.get('server_count')!r}, the table lists {len(servers)}"
        cure = f'Write "{len(servers)}" (a string), or merge the tables again with tools/merge_hccl.py'
        findings.append(Finding("error", "server_count", fault, cure))
    return findings


def _servers(servers: list[dict[str, Any]]) -> list[Finding]:
    findings = []
    names = [server["server_id"] for server in servers]
    for name, count in Counter(names).items():
        if count > 1:
            cure = "Generate each server's table on that server, with --server_ip when its host name is wrong"
            findings.append(Finding("error", f"server {name}", f"listed {count} times", cure))
        address = address_of(name)
        if address is None:
            cure = "Servers find each other by it; give the address with hccl_tools.py --server_ip"
            findings.append(Finding("warning", f"server {name}", "server_id is not an IP address", cure))
        elif address.is_loopback and len(servers) > 1:
            cure = "Other servers cannot reach it; generate that table again with hccl_tools.py --server_ip ADDRESS"
            findings.append(Finding("error", f"server {name}", "a loopback address in a job of several servers", cure))
        elif address.is_loopback:
            cure = "Good for one server alone; the host name resolves wrongly, use --server_ip before merging"
            findings.append(Finding("warning", f"server {name}", "a loopback address", cure))
    if names != sorted(names):
        cure = "MindSpore documents this order; give the files to tools/merge_hccl.py in it (or use --sort)"
        findings.append(
            Finding("warning", "server_list", "servers are not in the alphabetical order of server_id", cure)
        )
    return findings


def _devices(servers: list[dict[str, Any]]) -> list[Finding]:
    findings = []
    owners: dict[str, list[str]] = {}
    for server in servers:
        name = server["server_id"]
        for number, count in Counter(entry["device_id"] for entry in server["device"]).items():
            if count > 1:
                cure = "Generate this server's table again"
                findings.append(Finding("error", f"server {name}", f"device {number} listed {count} times", cure))
        for entry in server["device"]:
            place = f"server {name} device {entry['device_id']}"
            owners.setdefault(entry["device_ip"], []).append(place)
            if address_of(entry["device_ip"]) is None:
                cure = f"Read it with: hccn_tool -i {entry['device_id']} -ip -g"
                fault = f"device_ip {entry['device_ip']!r} is not an IP address"
                findings.append(Finding("error", place, fault, cure))
    for address, places in owners.items():
        if len(places) > 1:
            cure = "Give each device its own address: hccn_tool -i ID -ip -s address ADDRESS netmask MASK"
            findings.append(Finding("error", address, f"address of {' and '.join(places)}", cure))
    counts = {server["server_id"]: len(server["device"]) for server in servers}
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{name}: {count}" for name, count in counts.items())
        cure = "Use the same number of devices on every server"
        findings.append(Finding("warning", "server_list", f"numbers of devices differ ({listing})", cure))
    return findings


def _ranks(servers: list[dict[str, Any]]) -> list[Finding]:
    findings = []
    ranks = [int(entry["rank_id"]) for server in servers for entry in server["device"]]
    cure = "Let tools/merge_hccl.py number the ranks"
    for rank, count in sorted(Counter(ranks).items()):
        if count > 1:
            findings.append(Finding("error", f"rank {rank}", f"given to {count} devices", cure))
    missing = sorted(set(range(len(ranks))) - set(ranks))
    if missing:
        fault = f"ranks are not 0..{len(ranks) - 1}: {', '.join(map(str, missing))} missing"
        findings.append(Finding("error", "rank_id", fault, cure))
    elif ranks != sorted(ranks):
        findings.append(Finding("warning", "rank_id", "ranks do not rise in the order of the list", cure))
    return findings


def _subnets(servers: list[dict[str, Any]], prefix: int) -> list[Finding]:
    """Device k of every board of four hangs on switch k: its addresses must share a subnet, or be in one for all."""
    columns: dict[int, dict[str, list[str]]] = {}
    for server in servers:
        for entry in server["device"]:
            if address_of(entry["device_ip"]) is not None:
                network = str(ipaddress.ip_interface(f"{entry['device_ip']}/{prefix}").network)
                places = columns.setdefault(int(entry["device_id"]) % 4, {}).setdefault(network, [])
                places.append(f"{server['server_id']} device {entry['device_id']}")
    findings = []
    for column, networks in sorted(columns.items()):
        if len(networks) > 1:
            listing = "; ".join(f"{network}: {', '.join(places)}" for network, places in networks.items())
            cure = "Devices at one place of every board of four need one subnet; compare netmasks with hccn_tool -ip -g"
            place = "devices " + ", ".join(str(column + step) for step in (0, 4))
            findings.append(Finding("warning", place, f"different subnets ({listing})", cure))
    used = {network for networks in columns.values() for network in networks}
    if 1 < len(used) < len(columns) and all(len(networks) == 1 for networks in columns.values()):
        cure = "Either all devices share one subnet, or each of a board's four has its own"
        findings.append(
            Finding("warning", "device_ip", f"some devices of a board share a subnet ({', '.join(sorted(used))})", cure)
        )
    return findings


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text states, None when it states none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
