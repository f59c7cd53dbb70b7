#!/usr/bin/env python3
"""Writes the rank table of this server: `python tools/hccl_tools.py --device_num "[0,8)"`.

The addresses come from hccn_tool, else from /etc/hccn.conf, or from a copy of that file named by --hccn_conf.
Standard library only, Python 3.7 or later.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import rank_table
from rank_table import TableError

HCCN_CONF = Path("/etc/hccn.conf")
HCCN_TOOL = Path("/usr/local/Ascend/driver/tools/hccn_tool")
_SECONDS = 30


def parse_range(text: str, per_node: int | None) -> list[int]:
    """Logical device numbers of "[first,last)"; the last is never included, whatever the closing bracket.

    Devices are wired in boards of four: a range lies inside one board, or covers whole servers of eight.

    Raises:
        TableError: not such a range, or one that the wiring does not allow.
    """
    match = re.fullmatch(r"\s*\[\s*([0-9]+)\s*,\s*([0-9]+)\s*[\])]\s*", text, re.ASCII)
    if match is None:
        raise TableError(f'--device_num: got {text!r}. Write "[0,8)": first device, and the one after the last.')
    first, last = int(match.group(1)), int(match.group(2))
    limit = per_node or (8 if last <= 8 else 16)
    if first >= last:
        raise TableError(f"--device_num: got {text!r}. The first device must be smaller than the end ({last}).")
    if last > limit:
        fix = "use at most those, or set --device_num_per_node"
        raise TableError(f"--device_num: got {text!r}. This server has {limit} devices: {fix}.")
    whole_boards = first % 8 == 0 and last % 8 == 0
    if first // 4 != (last - 1) // 4 and not whole_boards:
        raise TableError(
            f"--device_num: got {text!r}. Devices are wired in fours: stay in one (0-3, 4-7, ...) or take all, [0,8)."
        )
    return list(range(first, last))


def parse_visible(text: str | None, count: int) -> list[str]:
    """Physical device number of each logical one.

    Raises:
        TableError: not a list of different numbers.
    """
    if text is None:
        return [str(number) for number in range(count)]
    visible = [part.strip() for part in text.split(",")]
    if not all(rank_table.is_number(part) for part in visible):
        raise TableError(f'--visible_devices: got {text!r}. Write numbers with commas: "0,1,2,3".')
    visible = [str(int(part)) for part in visible]
    if len(set(visible)) < len(visible):
        raise TableError(f"--visible_devices: got {text!r}. Name each device once.")
    return visible


def read_conf(path: Path) -> dict[str, str]:
    """Physical device number -> address, from the `address_N=ADDRESS` lines of a hccn.conf.

    Raises:
        TableError: the file cannot be read, or a line gives a device a second address.
    """
    try:
        lines = rank_table.read_text(path, errors="replace").splitlines()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}). Name a hccn.conf with --hccn_conf.") from error
    addresses: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"\s*address_([0-9]+)\s*=\s*(\S+)\s*", line, re.ASCII)
        if match is None:
            continue
        name, address = str(int(match.group(1))), match.group(2)
        if addresses.setdefault(name, address) != address:
            raise TableError(f"{path}:{number}: a second address for device {name}. Keep one of the lines.")
    return addresses


def ask_driver(numbers: list[str]) -> dict[str, str]:
    """Physical device number -> address as hccn_tool reports it; devices it knows nothing of are left out."""
    tool = shutil.which("hccn_tool") or (str(HCCN_TOOL) if HCCN_TOOL.is_file() else None)
    addresses = {}
    for number in numbers if tool else []:
        try:
            answer = subprocess.run(
                [tool, "-i", number, "-ip", "-g"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"hccn_tool failed for device {number}: {error}", file=sys.stderr)
            continue
        match = re.search(r"^ipaddr:\s*(\S+)", answer.stdout.decode("utf-8", "replace"), re.MULTILINE)
        if answer.returncode == 0 and match:
            addresses[number] = match.group(1)
    return addresses


def find_addresses(numbers: list[str], conf: str | None) -> dict[str, str]:
    """Physical device number -> address for every number asked for.

    Raises:
        TableError: a device without an address, an address that is none, or one that two devices have.
    """
    if conf is not None:
        source, addresses = conf, read_conf(Path(conf))
    else:
        source, addresses = f"hccn_tool or {HCCN_CONF}", ask_driver(numbers)
        if set(numbers) - set(addresses) and HCCN_CONF.is_file():
            addresses = {**read_conf(HCCN_CONF), **addresses}
    missing = [number for number in numbers if number not in addresses]
    if missing:
        raise TableError(
            f"No address for device {', '.join(missing)} in {source}. Run this on the Ascend server with its driver "
            "installed (often as root), or name a saved copy of its /etc/hccn.conf with --hccn_conf."
        )
    owners: dict[str, str] = {}
    for number in numbers:
        address = addresses[number]
        if rank_table.address_of(address) is None:
            raise TableError(f"Device {number} has the address {address!r} in {source}, which is not an IP address.")
        if owners.setdefault(address, number) != number:
            raise TableError(
                f"Devices {owners[address]} and {number} both have {address} in {source}. Repair it first."
            )
    return addresses


def find_server(given: str) -> str:
    """Name of this server in the table: --server_ip, else the address of the host name, never a loopback one.

    Raises:
        TableError: the host name leads nowhere useful and no network address was found.
    """
    if given:
        if re.search(r"[\s/\\]", given):
            raise TableError(f"--server_ip: got {given!r}. Give the server's IP address.")
        if rank_table.address_of(given) is None:
            print(f"--server_ip: {given!r} is not an IP address; servers find each other by it", file=sys.stderr)
        return given
    host = socket.gethostname()
    try:
        resolved = socket.gethostbyname(host)
    except OSError:
        resolved = ""
    address = rank_table.address_of(resolved)
    if address is not None and not (address.is_loopback or address.is_unspecified):
        return resolved
    outward = _outward_address()
    what = f"resolves to {resolved}" if resolved else "does not resolve"
    if outward is None:
        raise TableError(f"The host name {host!r} {what}, useless to other servers. Give --server_ip ADDRESS.")
    print(
        f"The host name {host!r} {what}; using this server's address {outward}. --server_ip overrides it.",
        file=sys.stderr,
    )
    return outward


def _outward_address() -> str | None:
    """The address of the interface with the default route. Connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # an address reserved for documentation
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith(("127.", "0.")) else address


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, under the names that users of MindFormers know."""
    parser = rank_table.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--device_num", default="[0,8)", help='devices of the job, "[0,8)": the end is not included')
    parser.add_argument("--visible_devices", help='physical number of each device, "0,1,2,3,4,5,6,7"')
    parser.add_argument("--server_ip", default="", help="address of this server; the host name's when left out")
    parser.add_argument("--device_num_per_node", type=int, help="devices in this server: 8 or 16")
    parser.add_argument("--hccn_conf", help="read the addresses from this copy of /etc/hccn.conf, ask no driver")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    """Writes `hccl_<n>p_<devices>_<server>.json` in the working directory and returns its path."""
    args = parse_arguments(arguments)
    logical = parse_range(args.device_num, args.device_num_per_node)
    visible = parse_visible(args.visible_devices, max(8, logical[-1] + 1))
    if logical[-1] >= len(visible):
        raise TableError(f"--device_num asks for device {logical[-1]}, --visible_devices has only {len(visible)}.")
    physical = [visible[number] for number in logical]
    addresses = find_addresses(physical, args.hccn_conf)
    server = find_server(args.server_ip)
    print(f"visible_devices:{visible}\nserver_id:{server}\ndevice_num_list:{logical}")
    devices = []
    for rank, number in enumerate(physical):
        print(f"rank_id:{rank}, device_id:{number}, device_ip:{addresses[number]}")
        devices.append(rank_table.device(number, addresses[number], rank))
    path = Path.cwd() / f"hccl_{len(logical)}p_{''.join(map(str, logical))}_{server}.json"
    rank_table.write(path, rank_table.table([(server, devices)]))
    print(f"Completed: hccl file was save in : {path}")
    return path


if __name__ == "__main__":
    try:
        main()
    except TableError as fault:
        sys.exit(f"hccl_tools: {fault}")
    except OSError as fault:
        sys.exit(f"hccl_tools: the table could not be written: {fault}")
