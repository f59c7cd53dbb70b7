"""The doctor on machines that are made up: with an Ascend, with half of one, and this one."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from mindformers_glm.cli import doctor as command
from mindformers_glm.conformance import doctor, doctor_ascend
from mindformers_glm.conformance.doctor import FAIL, OK, WARN, Machine

NPU_SMI = """
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B2               | OK            | 93.7        45                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3375 / 65536         |
+===========================+===============+====================================================+
| 1     910B2               | {health:13} | 93.7        45                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3375 / 65536         |
+===========================+===============+====================================================+
"""
TOOLKIT = "/usr/local/Ascend/ascend-toolkit/latest"
TABLE = {
    "version": "1.0",
    "server_count": "1",
    "server_list": [
        {
            "server_id": "10.0.0.1",
            "device": [{"device_id": str(i), "device_ip": f"192.168.{i}.9", "rank_id": str(i)} for i in range(2)],
            "host_nic_ip": "reserve",
        }
    ],
    "status": "completed",
}


@pytest.fixture
def ascend(tmp_path):
    """A machine with two healthy devices; files and variables can be changed."""

    def make(*, health="OK", files=None, **environment):
        written = {
            "/usr/local/Ascend/driver/version.info": "Version=24.1.rc2\nascendhal_version=7.35.23\n",
            "/usr/local/Ascend/firmware/version.info": "Version=7.3.0.1.231\n",
            f"{TOOLKIT}/version.cfg": "# version: 1.0\nruntime_running_version=[7.6.0.1.220:8.0.0]\n",
            "/etc/hccn.conf": "address_0=192.168.0.9\nnetmask_0=255.255.255.0\naddress_1=192.168.1.9\n",
            "/proc/meminfo": "MemTotal: 2000000 kB\nMemAvailable: 900000000 kB\n",
            **(files or {}),
        }
        for name, text in written.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                path.write_text(text)
        answers = {"npu-smi": (0, NPU_SMI.format(health=health)), sys.executable: (0, "computed 2.5 2.10.0\n")}
        variables = {"ASCEND_HOME_PATH": TOOLKIT, "LD_LIBRARY_PATH": f"{TOOLKIT}/lib64", **environment}
        variables = {name: value for name, value in variables.items() if value is not None}
        return Machine(tmp_path, variables, lambda words: answers[words[0]], tmp_path)

    return make


def levels(findings):
    return {finding.name: finding.level for finding in findings}


def asked(part, machine):
    return list(part(machine, "Ascend"))


def test_a_good_machine_has_no_failure(ascend, monkeypatch):
    monkeypatch.setattr(doctor, "find_python", lambda: "python3.7")
    found = doctor.examine("Ascend", ascend())
    assert [str(finding) for finding in found if finding.level == FAIL] == []
    assert levels(found)["CANN"] == levels(found)["npu-smi"] == levels(found)["hccn.conf"] == OK
    said = {finding.name: finding.found for finding in found}
    assert said["npu-smi"] == "2 devices, 910B2" and said["CANN"] == "8.0.0" and said["Ascend driver"] == "24.1.rc2"
    assert all(finding.cure for finding in found if finding.level == WARN)


@pytest.mark.parametrize(
    ("part", "changes", "name", "level", "told"),
    [
        ("driver", {"health": "Alarm"}, "npu-smi", FAIL, "910B2 is Alarm"),
        ("driver", {"files": {"/usr/local/Ascend/driver/version.info": None}}, "Ascend driver", FAIL, "no /usr/local"),
        ("cann", {"ASCEND_HOME_PATH": None}, "CANN", FAIL, "8.0.0, but its environment is not set"),
        ("cann", {"ASCEND_HOME_PATH": "/opt/none"}, "CANN", FAIL, "no folder /opt/none"),
        ("cann", {"LD_LIBRARY_PATH": None}, "LD_LIBRARY_PATH", FAIL, "not in it"),
        ("cann", {"files": {f"{TOOLKIT}/version.cfg": "x_version=[7.0:7.0.0]\n"}}, "CANN", WARN, "7.0.0"),
        ("network", {"files": {"/etc/hccn.conf": None}}, "hccn.conf", WARN, "no /etc/hccn.conf"),
        ("network", {"files": {"/etc/hccn.conf": "address_0=1.2.3\n"}}, "hccn.conf", FAIL, "address_0=1.2.3"),
        (
            "network",
            {"files": {"/etc/hccn.conf": "address_0=1.2.3.4\naddress_1=1.2.3.4\n"}},
            "hccn.conf",
            FAIL,
            "1.2.3.4 is given twice",
        ),
    ],
)
def test_what_an_ascend_lacks_is_told(ascend, part, changes, name, level, told):
    found = [one for one in asked(getattr(doctor_ascend, part), ascend(**changes)) if one.name == name]
    assert [one.level for one in found] == [level]
    assert told in found[0].found and found[0].cure


def test_the_first_generation_is_told_of_its_operators(ascend):
    machine = ascend()._replace(run=lambda words: (0, NPU_SMI.format(health="OK").replace("910B2", "910A ")))
    assert levels(asked(doctor_ascend.driver, machine))["operators of Ascend"] == WARN


def test_a_rank_table_is_examined(ascend, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    found = asked(doctor_ascend.rank_table, ascend(RANK_TABLE_FILE=str(path)))
    assert [(one.level, one.found) for one in found] == [(OK, "2 devices on 1 servers")]
    found = asked(doctor_ascend.rank_table, ascend(RANK_TABLE_FILE=str(path), RANK_SIZE="8"))
    assert [(one.level, one.found) for one in found] == [(FAIL, "it has 2 devices, and RANK_SIZE is 8")]
    path.write_text(json.dumps(TABLE | {"status": "initializing"}))
    found = asked(doctor_ascend.rank_table, ascend(RANK_TABLE_FILE=str(path)))
    assert found[0].level == FAIL and "status" in found[0].found
    found = asked(doctor_ascend.rank_table, ascend(RANK_TABLE_FILE=str(tmp_path / "none.json")))
    assert found[0].level == FAIL and "cannot be read" in found[0].found


@pytest.mark.parametrize(
    "answer", [(1, "RuntimeError: Unsupported device target Ascend"), (-11, ""), (None, "no answer")]
)
def test_mindspore_that_does_not_compute_is_told(ascend, answer):
    (found,) = doctor.device(ascend()._replace(run=lambda words: answer), "Ascend")
    assert found.level == FAIL and "set_env.sh" in found.cure


def test_numpy_2_fails_and_another_mindspore_warns(ascend, monkeypatch):
    monkeypatch.setattr(doctor, "installed", {"numpy": "2.1.0", "mindspore": "2.9.0"}.get)
    found = {one.name: one for one in doctor.packages(ascend(), "CPU")}
    assert (found["numpy"].level, found["mindspore"].level, found["tqdm"].level) == (FAIL, WARN, FAIL)
    assert found["numpy"].cure.endswith("pip install 'numpy==1.*'") and found["tqdm"].found == "not installed"


def test_a_port_in_use_is_told(ascend, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "msrun"})
        (found,) = doctor.ports(ascend(), "CPU")
    assert (found.name, found.level) == (f"port {port}", WARN) and "another port" in found.cure


def test_little_memory_fails(ascend):
    (found,) = doctor.memory(ascend(files={"/proc/meminfo": "MemAvailable: 500000 kB\n"}), "CPU")
    assert found.level == FAIL and found.found == "0.5 GiB available"


def test_the_command_prints_writes_and_fails(ascend, monkeypatch, tmp_path, capsys):
    machine = ascend()
    monkeypatch.setattr(doctor, "Machine", lambda environment: machine._replace(environment=environment))
    monkeypatch.setattr(doctor, "lite", lambda machine, target: iter(()))
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "RANK_TABLE_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert command.main(["--device_target", "Ascend", "--json", str(tmp_path / "found.json")]) == 1
    printed = capsys.readouterr().out
    assert "fail  CANN: 8.0.0, but its environment is not set\n      -> source " in printed
    assert printed.splitlines()[-1].startswith("not fit for Ascend: ")
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["fit"] is False and {row["level"] for row in content["findings"]} <= {OK, WARN, FAIL}
