"""The doctor's questions about an Ascend: driver, firmware, CANN, device network, rank table. UNVERIFIED on a device:
paths and file formats are those of Ascend's documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mindformers_glm.conformance import rank_table as tables
from mindformers_glm.conformance.examination import FAIL, OK, WARN, Finding, Machine

ASCEND = "/usr/local/Ascend"
HCCN_CONF = "/etc/hccn.conf"
TOOLKITS = (f"{ASCEND}/ascend-toolkit/latest", f"{ASCEND}/cann", f"{ASCEND}/latest", f"{ASCEND}/nnae/latest")
_INFOS = ("version.cfg", "version.info", "compiler/version.info", "runtime/version.info", "*/ascend_*_install.info")
_HEALTHY = "OK"


def driver(machine: Machine, target: str) -> Iterator[Finding]:
    """Driver, firmware, and the devices that npu-smi shows."""
    for part, cure in (
        ("driver", "install the driver that belongs to the firmware of this card (hiascend.com, Ascend HDK)"),
        ("firmware", "install the firmware of the same Ascend HDK as the driver"),
    ):
        text = machine.text(f"{ASCEND}/{part}/version.info")
        version = _version(text or "")
        level = OK if version else FAIL if part == "driver" else WARN
        yield Finding(f"Ascend {part}", level, version or f"no {ASCEND}/{part}/version.info", cure)
    status, output = machine.run(["npu-smi", "info"])
    if status != 0:
        told = next((line.strip() for line in output.splitlines() if line.strip()), "no such program")
        yield Finding(
            "npu-smi", FAIL, told[:200], "the driver is not loaded, or this user is not in the group HwHiAiUser"
        )
        return
    devices = re.findall(r"^\|\s*\d+\s+(\S*\d{3}\S*)\s*\|\s*(\S+)\s*\|", output, re.MULTILINE)
    sick = [f"{name} is {health}" for name, health in devices if health != _HEALTHY]
    if not devices:
        yield Finding("npu-smi", FAIL, "it shows no device", "see `npu-smi info`; in a container, pass /dev/davinci*")
    elif sick:
        yield Finding("npu-smi", FAIL, "; ".join(sick), "see `npu-smi info -t health -i ID`; reset the device")
    else:
        names = sorted({name for name, _ in devices})
        yield Finding("npu-smi", OK, f"{len(devices)} devices, {', '.join(names)}")
        if any(re.fullmatch(r"910A?", name) for name in names):
            yield Finding(
                "operators of Ascend", WARN, "the first 910 has none that this suite uses", "formulas are used instead"
            )


def cann(machine: Machine, target: str) -> Iterator[Finding]:
    """The toolkit, and whether its environment is set."""
    home = machine.environment.get("ASCEND_HOME_PATH") or machine.environment.get("ASCEND_TOOLKIT_HOME")
    places = [home] if home else [place for place in TOOLKITS if machine.path(place).is_dir()]
    if not places:
        yield Finding("CANN", FAIL, f"ASCEND_HOME_PATH is not set, and nothing lies in {ASCEND}", "install CANN")
        return
    folder = machine.path(places[0])
    if not folder.is_dir():
        yield Finding(
            "CANN", FAIL, f"ASCEND_HOME_PATH: no folder {places[0]}", "source set_env.sh of the installed CANN"
        )
        return
    version = next(
        filter(None, map(_version_in, (path for info in _INFOS for path in sorted(folder.glob(info))))), None
    )
    if not home:
        cure = f"source {Path(places[0]).parent}/set_env.sh, in every shell that trains"
        yield Finding("CANN", FAIL, f"{version or 'a version that is not told'}, but its environment is not set", cure)
    elif version is None:
        yield Finding("CANN", WARN, f"{places[0]} tells no version", "compare with MindSpore 2.10's installation guide")
    else:
        major = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
        cure = "MindSpore 2.10 is built for CANN 8 and later: see its installation guide"
        yield Finding("CANN", OK if major >= 8 else WARN, version, cure)
    libraries = machine.environment.get("LD_LIBRARY_PATH", "")
    if home and places[0] not in libraries and "Ascend" not in libraries:
        cure = "source set_env.sh of CANN instead of setting ASCEND_HOME_PATH alone"
        yield Finding("LD_LIBRARY_PATH", FAIL, "CANN's libraries are not in it", cure)


def network(machine: Machine, target: str) -> Iterator[Finding]:
    """Addresses of the devices, for HCCL."""
    text = machine.text(HCCN_CONF)
    if text is None:
        cure = "one device needs none; for more: hccn_tool -i ID -ip -s address ADDRESS netmask MASK"
        yield Finding("hccn.conf", WARN, f"no {HCCN_CONF}", cure)
        return
    addresses = re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)\s*$", text, re.MULTILINE | re.ASCII)
    wrong = [f"address_{number}={address}" for number, address in addresses if tables.address_of(address) is None]
    twice = sorted({address for _, address in addresses if [one for _, one in addresses].count(address) > 1})
    if wrong or twice:
        cure = "give each device an address of its own: hccn_tool -i ID -ip -s address ADDRESS netmask MASK"
        yield Finding("hccn.conf", FAIL, "; ".join(wrong + [f"{address} is given twice" for address in twice]), cure)
    else:
        level = OK if addresses else WARN
        yield Finding("hccn.conf", level, f"{len(addresses)} devices have addresses", "see hccn_tool -i 0 -ip -g")


def rank_table(machine: Machine, target: str) -> Iterator[Finding]:
    """The table that RANK_TABLE_FILE names, where one is named."""
    path = machine.environment.get("RANK_TABLE_FILE")
    if not path:
        yield Finding("rank table", OK, "none named by RANK_TABLE_FILE: msrun needs none")
        return
    try:
        content = tables.read(path)
    except tables.TableError as fault:
        yield Finding("rank table", FAIL, str(fault), "tools/hccl_tools.py writes one, tools/check_hccl.py examines it")
        return
    faults = tables.examine(content)
    for found in faults:
        level = FAIL if found.level == "error" else WARN
        yield Finding("rank table", level, f"{found.place}: {found.fault}", found.cure)
    total = sum(len(server["device"]) for server in content["server_list"])
    size = machine.environment.get("RANK_SIZE", "")
    if size and size != str(total):
        cure = "every process waits for all devices of the table: make both numbers equal"
        yield Finding("rank table", FAIL, f"it has {total} devices, and RANK_SIZE is {size[:20]}", cure)
    elif not faults:
        yield Finding("rank table", OK, f"{total} devices on {len(content['server_list'])} servers")


def _version(text: str) -> str | None:
    found = re.search(r"^\s*(?:\w*[vV]ersion\w*)\s*=\s*\[?(?:[^\[\]\s:]*:)?([0-9][^\s\]:]*)", text, re.MULTILINE)
    return found.group(1) if found else None


def _version_in(path: Path) -> str | None:
    try:
        return _version(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
