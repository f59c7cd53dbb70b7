"""Rank tables are generated, merged and examined as documented, also by a bare Python 3.7."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

EIGHT = ["192.1.27.6", "192.2.27.6", "192.3.27.6", "192.4.27.6", "192.1.27.7", "192.2.27.7", "192.3.27.7", "192.4.27.7"]
EIGHT_MORE = [address[:-1] + {"6": "8", "7": "9"}[address[-1]] for address in EIGHT]


def documented(*servers):
    """The table printed in the documents: (server_id, addresses) for each server."""
    rank, listing = 0, []
    for name, addresses in servers:
        devices = []
        for number, address in enumerate(addresses):
            devices.append({"device_id": str(number), "device_ip": address, "rank_id": str(rank)})
            rank += 1
        listing.append({"server_id": name, "device": devices, "host_nic_ip": "reserve"})
    return {"version": "1.0", "server_count": str(len(servers)), "server_list": listing, "status": "completed"}


@pytest.fixture
def tool(root, tmp_path):
    """Runs a tool in tmp_path, without this machine's hccn_tool or packages."""

    def run(name, *arguments, python=(sys.executable, "-S"), path="/usr/bin:/bin", **variables):
        command = [*python, str(root / "tools" / f"{name}.py"), *map(str, arguments)]
        environment = {"PATH": path, "HOME": os.environ.get("HOME", "/"), **variables}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def conf(tmp_path):
    def write(addresses, name="hccn.conf"):
        lines = [f"address_{number}={address}\nnetmask_{number}=255.255.255.0" for number, address in addresses.items()]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def fake_driver(folder, addresses):
    """A hccn_tool that knows `addresses` (number -> address) and fails for other devices."""
    folder.mkdir()
    cases = "\n".join(
        f'{number}) echo "ipaddr:{address}"; echo "netmask:255.255.255.0";;' for number, address in addresses.items()
    )
    script = folder / "hccn_tool"
    script.write_text(f'#!/bin/sh\n[ "$1 $3 $4" = "-i -ip -g" ] || exit 9\ncase "$2" in\n{cases}\n*) exit 1;;\nesac\n')
    script.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_documented_eight_devices(tool, conf, tmp_path):
    done = tool(
        "hccl_tools", "--device_num", "[0,8)", "--server_ip", "xx.xx.xx.xx", "--hccn_conf", conf(dict(enumerate(EIGHT)))
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "hccl_8p_01234567_xx.xx.xx.xx.json"
    assert json.loads(path.read_text()) == documented(("xx.xx.xx.xx", EIGHT))
    assert list(json.loads(path.read_text())) == ["version", "server_count", "server_list", "status"]
    assert f"Completed: hccl file was save in : {path}" in done.stdout
    assert "rank_id:7, device_id:7, device_ip:192.4.27.7" in done.stdout


def test_twelve_servers_of_eight(tool, tmp_path):
    """The documents' large job: RANK_SIZE is 8*12."""
    servers = [(f"10.0.0.{host}", [f"192.{host}.0.{number}" for number in range(1, 9)]) for host in range(1, 13)]
    for name, addresses in servers:
        part = tmp_path / f"hccl_8p_01234567_{name}.json"
        part.write_text(json.dumps(documented((name, addresses))))
    done = tool("merge_hccl", *(f"hccl_8p_01234567_{name}.json" for name, _ in servers))
    assert done.returncode == 0, done.stderr
    merged = tmp_path / "hccl_12s_96p.json"
    assert json.loads(merged.read_text()) == documented(*servers)
    assert tool("check_hccl", merged).returncode == 0


def test_documented_two_servers(tool, conf, tmp_path):
    for server, addresses in (("10.155.111.140", EIGHT), ("10.155.111.141", EIGHT_MORE)):
        assert (
            tool("hccl_tools", "--server_ip", server, "--hccn_conf", conf(dict(enumerate(addresses)))).returncode == 0
        )
    parts = [f"hccl_8p_01234567_10.155.111.{host}.json" for host in (140, 141)]
    done = tool("merge_hccl", *parts)
    assert done.returncode == 0, done.stderr
    merged = tmp_path / "hccl_2s_16p.json"
    expected = documented(("10.155.111.140", EIGHT), ("10.155.111.141", EIGHT_MORE))
    assert json.loads(merged.read_text()) == expected
    assert tool("check_hccl", merged).returncode == 0

    again = tool(
        "merge_hccl", *sorted(path.name for path in tmp_path.glob("hccl*.json"))
    )  # the shell pattern finds the result too
    assert again.returncode == 0 and "skipped" in again.stderr
    assert json.loads(merged.read_text()) == expected

    assert tool("merge_hccl", *reversed(parts)).returncode == 0
    assert [server["server_id"] for server in json.loads(merged.read_text())["server_list"]] == [
        "10.155.111.141",
        "10.155.111.140",
    ]
    assert json.loads(merged.read_text())["server_list"][0]["device"][0]["rank_id"] == "0"
    assert tool("merge_hccl", "--sort", *reversed(parts)).returncode == 0
    assert json.loads(merged.read_text()) == expected


def test_real_conf_gives_the_real_table_byte_for_byte(tool, shared, tmp_path):
    folder = shared / "data/ascend"
    done = tool(
        "hccl_tools",
        "--device_num",
        "[0,4)",
        "--server_ip",
        "127.0.0.1",
        "--hccn_conf",
        folder / "hccn.conf.4p.example",
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "hccl_4p_0123_127.0.0.1.json"
    assert made.read_bytes() == (folder / made.name).read_bytes()
    done = tool("hccl_tools", "--server_ip", "10.0.0.7", "--hccn_conf", folder / "hccn.conf.8p.example")
    addresses = [f"192.168.{10 * (number % 4 + 1)}.{21 + number // 4}" for number in range(8)]
    assert json.loads((tmp_path / "hccl_8p_01234567_10.0.0.7.json").read_text()) == documented(("10.0.0.7", addresses))


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("ktuna26_hccl_8p.json", 0, "ranks 0 to 7"),
        ("ringmoe_rank_table_2pcs.json", 0, "The table is good."),
        ("ringmoe_rank_table_8pcs.json", 0, "The table is good."),
        ("hccl_4p_0123_127.0.0.1.json", 0, "loopback"),
        ("ringmoe_rank_table_16pcs.json", 1, "server 10.*.*.*: listed 2 times"),
    ],
)
def test_doctor_on_real_tables(tool, shared, name, status, said):
    done = tool("check_hccl", shared / "data/ascend" / name)
    assert (done.returncode, said in done.stdout) == (status, True), done.stdout + done.stderr


@pytest.mark.parametrize("given", ["[0,8)", "[0,8]", " [ 0 , 8 ) "])
def test_the_end_is_never_included(tool, conf, tmp_path, given):
    done = tool(
        "hccl_tools", "--device_num", given, "--server_ip", "10.0.0.7", "--hccn_conf", conf(dict(enumerate(EIGHT)))
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hccl_8p_01234567_10.0.0.7.json").is_file()


def test_two_digit_devices(tool, conf, tmp_path):
    sixteen = {number: f"192.{number % 4 + 1}.9.{number + 1}" for number in range(16)}
    done = tool("hccl_tools", "--device_num", "[8,16)", "--server_ip", "10.0.0.7", "--hccn_conf", conf(sixteen))
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "hccl_8p_89101112131415_10.0.0.7.json").read_text())
    devices = made["server_list"][0]["device"]
    assert [entry["device_id"] for entry in devices] == [str(number) for number in range(8, 16)]
    assert [entry["rank_id"] for entry in devices] == [str(number) for number in range(8)]


def test_visible_devices_name_the_physical_ones(tool, tmp_path):
    """The addresses are asked for by physical number: the old tool mixed the two numberings."""
    path = fake_driver(tmp_path / "bin", {6: "192.3.27.7", 7: "192.4.27.7"})
    done = tool("hccl_tools", "--device_num", "[0,2)", "--visible_devices", "7,6", "--server_ip", "10.0.0.7", path=path)
    assert done.returncode == 0, done.stderr
    devices = json.loads((tmp_path / "hccl_2p_01_10.0.0.7.json").read_text())["server_list"][0]["device"]
    assert devices == [
        {"device_id": "7", "device_ip": "192.4.27.7", "rank_id": "0"},
        {"device_id": "6", "device_ip": "192.3.27.7", "rank_id": "1"},
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device_num", "0-8"), 'Write "[0,8)"'),
        (("--device_num", "[4,4)"), "smaller than the end"),
        (("--device_num", "[2,6)"), "wired in fours"),
        (("--device_num", "[0,20)"), "has 16 devices"),
        (("--device_num", "[8,16)", "--device_num_per_node", "8"), "has 8 devices"),
        (("--visible_devices", "0,x"), "--visible_devices"),
        (("--visible_devices", "0,0,1,2"), "Name each device once"),
        (("--visible_devices", "0,1"), "has only 2"),
        (("--server_ip", "../evil"), "--server_ip"),
        (("--hccn_conf", "nowhere.conf"), "nowhere.conf: cannot be read"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tool, conf, tmp_path, arguments, said):
    defaults = [] if "--hccn_conf" in arguments else ["--hccn_conf", conf(dict(enumerate(EIGHT)))]
    server = [] if "--server_ip" in arguments else ["--server_ip", "10.0.0.7"]
    done = tool("hccl_tools", *arguments, *defaults, *server)
    assert done.returncode == 1
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("hccl_*"))


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ({0: "192.1.27.6", 1: "192.1.27.6"}, "both have 192.1.27.6"),
        ({0: "192.1.27.6"}, "No address for device 1"),
        ({0: "192.1.27.6", 1: "nonsense"}, "not an IP address"),
    ],
)
def test_bad_addresses_are_refused(tool, conf, addresses, said):
    done = tool("hccl_tools", "--device_num", "[0,2)", "--server_ip", "10.0.0.7", "--hccn_conf", conf(addresses))
    assert done.returncode == 1 and said in done.stderr, done.stderr


def test_host_name_that_resolves_to_loopback_is_not_believed(tool, root, tmp_path, conf):
    """Debian's /etc/hosts maps the host name to 127.0.1.1: a table with it cannot be merged."""
    run = tmp_path / "run.py"
    run.write_text(
        f"import sys, socket; sys.path.insert(0, {str(root / 'tools')!r}); import hccl_tools\n"
        "socket.gethostbyname = lambda name: '127.0.1.1'\n"
        "hccl_tools._outward_address = lambda: ADDRESS\n"
        "try:\n    print(hccl_tools.find_server(''))\nexcept hccl_tools.TableError as e:\n    sys.exit(str(e))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", run.read_text().replace("ADDRESS", "'10.0.0.9'")], capture_output=True, text=True
    )
    assert found.stdout.strip() == "10.0.0.9" and "127.0.1.1" in found.stderr
    lost = subprocess.run(
        [sys.executable, "-c", run.read_text().replace("ADDRESS", "None")], capture_output=True, text=True
    )
    assert lost.returncode == 1 and "Give --server_ip" in lost.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["server_list"][1].update(server_id="10.0.0.1"), "already in"),
        (lambda t: t["server_list"][1]["device"][0].update(device_ip=EIGHT[0]), "already in"),
        (lambda t: t["server_list"][1]["device"][1].update(device_id="0"), "device 0 listed 2 times"),
        (lambda t: t.update(status="initializing"), "status"),
    ],
)
def test_merge_refuses_conflicts(tool, tmp_path, change, said):
    whole = documented(("10.0.0.1", EIGHT), ("10.0.0.2", EIGHT_MORE))
    change(whole)
    for number, server in enumerate(whole["server_list"]):
        for rank, entry in enumerate(server["device"]):
            entry["rank_id"] = str(rank)
        part = {**whole, "server_count": "1", "server_list": [server]}
        (tmp_path / f"part{number}.json").write_text(json.dumps(part))
    done = tool("merge_hccl", "part0.json", "part1.json")
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert not (tmp_path / "hccl_2s_16p.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("[]", "server_list"),
        ('{"server_list": []}', "a server"),
        ('{"server_list": [{}]}', "server_id"),
    ],
)
def test_broken_tables_are_refused_in_one_line(tool, tmp_path, content, said):
    (tmp_path / "broken.json").write_text(content)
    for done in (tool("check_hccl", "broken.json"), tool("merge_hccl", "broken.json", "other.json")):
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda t: t["server_list"][0]["device"][3].update(rank_id="9"), 1, "ranks are not 0..7: 3 missing"),
        (lambda t: t["server_list"][0]["device"][3].update(rank_id="2"), 1, "rank 2: given to 2 devices"),
        (
            lambda t: t["server_list"][0]["device"][3].update(device_ip=EIGHT[0]),
            1,
            "address of server 10.0.0.1 device 0 and",
        ),
        (lambda t: t.update(server_count="2"), 1, "server_count"),
        (lambda t: t["server_list"][0]["device"][4].update(device_ip="192.9.9.9"), 0, "different subnets"),
    ],
)
def test_doctor_finds_faults(tool, tmp_path, change, status, said):
    content = documented(("10.0.0.1", EIGHT))
    change(content)
    (tmp_path / "sick.json").write_text(json.dumps(content))
    done = tool("check_hccl", "sick.json")
    assert done.returncode == status and said in done.stdout, done.stdout


def test_doctor_compares_with_the_job(tool, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(documented(("10.0.0.1", EIGHT))))
    assert tool("check_hccl", "t.json", "--rank_size", "8", "--ranks", "0:0,7:7", "--quiet").returncode == 0
    wrong = tool("check_hccl", "t.json", "--rank_size", "16", "--ranks", "0:4", "--quiet")
    assert wrong.returncode == 1 and "the job 16" in wrong.stderr and "starts it on device 4" in wrong.stderr


def test_tools_run_under_python_3_7(tool, conf, root):
    python = shutil.which("python3.7")
    works = (
        python
        and subprocess.run(
            [python, "-V"], env={**os.environ, "PYENV_VERSION": "3.7.16"}, capture_output=True
        ).returncode
        == 0
    )
    if not works:
        pytest.skip("no Python 3.7 here")
    old = {"python": (python,), "path": os.environ["PATH"], "PYENV_VERSION": "3.7.16"}
    for server, addresses in (("10.0.0.1", EIGHT), ("10.0.0.2", EIGHT_MORE)):
        done = tool("hccl_tools", "--server_ip", server, "--hccn_conf", conf(dict(enumerate(addresses))), **old)
        assert done.returncode == 0, done.stderr
    assert tool("merge_hccl", *(f"hccl_8p_01234567_10.0.0.{host}.json" for host in (1, 2)), **old).returncode == 0
    assert tool("check_hccl", "hccl_2s_16p.json", **old).returncode == 0
