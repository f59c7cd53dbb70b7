"""Every command as a user types it: what it prints, and what is in its JSON."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from functools import cache
from pathlib import Path

import forked
import pytest

from mindformers_glm.benchmark import against, chart, command, start, worker
from mindformers_glm.benchmark.machine import Machine
from mindformers_glm.benchmark.operators import Operators
from mindformers_glm.benchmark.running import Decode
from mindformers_glm.benchmark.settings import Settings, Shape
from mindformers_glm.errors import UserError
from mindformers_glm.ops.kernels.library import library

SHAPE = "512,32,1,4,2,64"
PEER = """
import argparse, json, sys
p = argparse.ArgumentParser()
p.add_argument("what", nargs="?")
for name in ("shape", "dtype", "types", "threads", "prompt", "batch", "seq", "steps"):
    p.add_argument("--" + name)
p.add_argument("--lora", action="store_true")
a = p.parse_args()
print("a line of another kind")
print(json.dumps(vars(a) | {"peer": "small 1.0", "tokens_per_s": 10.0, "prefill_tokens_per_s": 20.0,
                            "decode_tokens_per_s": 40.0}))
"""


def run(words: str, capsys) -> str:
    status = command.main(shlex.split(words))
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


@pytest.fixture
def figures(tmp_path):
    return tmp_path / "figures.json"


@pytest.fixture
def peer(tmp_path) -> str:
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    return f"--peer_python {sys.executable} --peer_script {script}"


MACHINE = cache(Machine.measure)


@pytest.fixture
def one_machine(monkeypatch):
    """Its limits are measured once for all that is measured in this process: a gigabyte is read for them."""
    monkeypatch.setattr(Machine, "measure", MACHINE)


@pytest.fixture
def in_this_process(monkeypatch, one_machine):
    """Measures without a process for each run, which training and prefill have."""

    def measure(settings: Settings) -> dict:
        return {**worker.run(settings, begun=time.monotonic()), "others_share": 0.0}

    for module in (against, chart, command):
        monkeypatch.setattr(module, "measure", measure)


def check(found: dict, *, what: str, tokens: int) -> None:
    assert found["what"] == what
    assert found["shape"] == SHAPE
    assert found["tokens_per_s"] == pytest.approx(1e3 / found["ms_per_token"])
    assert 0 < found["ms_low"] <= found["ms_median"] <= found["ms_high"]
    if what != "decode":  # which divides the time of all steps
        assert found["tokens_per_s"] == pytest.approx(tokens / found["ms_median"] * 1e3)
    assert found["start_s"] > 0
    assert found["compile_s"] >= 0
    assert found["peak_bytes"] > found["weight_bytes"] > 0
    assert found["process_peak_bytes"] > 1e8
    assert 0 <= found["others_share"] <= 1
    machine = found["machine"]
    assert min(machine["memory_bytes_per_s"], machine["matrix_flop_per_s"]) > 0
    assert set(found["versions"]) == {"mindformers_glm", "mindspore", "numpy", "python"}


def test_train(tmp_path):
    file = tmp_path / "train.json"
    words = f"train --shape {SHAPE} --batch 2 --seq 16 --steps 3 --json {file}"
    done = forked.run(["-m", "mindformers_glm.benchmark", *words.split()])
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    check(found, what="train", tokens=2 * 16)
    assert found["last_loss"] < found["first_loss"]
    assert found["trained_parameters"] == found["parameters"]
    expected = found["flop"] / (found["ms_median"] / 1e3) / found["machine"]["matrix_flop_per_s"]
    assert found["matrix_share"] == pytest.approx(expected)
    for word in ("tokens/s", "ms per token", "peak memory", "start, compile", "of matrix speed"):
        assert word in done.stdout


def test_prefill(figures, capsys):
    shown = run(f"prefill --shape {SHAPE} --prompt 40 --batch 2 --chunk 16 --threads 1 --json {figures}", capsys)
    found = json.loads(figures.read_text())
    check(found, what="prefill", tokens=2 * 40)
    assert found["matrix_share"] > 0
    assert found["threads"] == found["machine"]["threads"] == 1
    assert "batch 2  prompt 40  1 thread\n" in shown


@pytest.mark.usefixtures("in_this_process")
def test_decode(figures, capsys):
    shown = run(f"decode --shape {SHAPE} --context 20 --batch 3 --steps 6 --json {figures}", capsys)
    found = json.loads(figures.read_text())
    check(found, what="decode", tokens=3)
    assert found["engine_tokens_per_s"] > 0
    rate = found["bytes_per_step"] * found["tokens_per_s"] / 3
    assert found["memory_share"] == pytest.approx(rate / found["machine"]["memory_bytes_per_s"])
    assert "of memory speed" in shown


@pytest.mark.usefixtures("in_this_process")
def test_ops(figures, capsys):
    shown = run(f"ops --shape {SHAPE} --batch 1 --seq 16 --steps 2 --only gate_up,norm,head --json {figures}", capsys)
    found = json.loads(figures.read_text())
    rows = {row["name"]: row for row in found["operators"]}
    assert set(rows) == {"linear gate_up", "rms_norm", "head cross_entropy", "gradient norm"}
    assert rows["linear gate_up"]["flop"] == 2 * 16 * 32 * 128
    assert all(row["forward_ms"] > 0 for row in rows.values())
    assert all(name in shown for name in rows)
    assert ("matrix_share" in rows["linear gate_up"], "memory_share" in rows["rms_norm"]) == (True, True)


def test_attention_is_timed_as_the_layer_trains(monkeypatch):
    """Rotary positions and attention are one kernel where there is one, else two formulas."""
    found = {}
    for kernels in ("auto", "off"):
        monkeypatch.setenv("GLM_KERNELS", kernels)
        operators = Operators(Settings(what="ops", shape=Shape.read(SHAPE), batch=2, length=16, steps=2))
        found[kernels] = {operator.name: operator for operator in operators.chosen()}
    monkeypatch.setenv("GLM_KERNELS", "auto")
    plain = {"rotary", "attention"}
    assert plain <= set(found["off"]) and "rotary and attention" not in found["off"]
    if library() is None:
        pytest.skip("the kernels are not built here")
    assert not plain & set(found["auto"])
    whole = found["auto"]["rotary and attention"]
    assert whole.flop == found["off"]["attention"].flop > 0
    row, _ = operators.time(whole)
    assert row["forward_ms"] > 0 and row["gradient_ms"] > 0
    assert whole.cell(*whole.inputs).shape == (2 * 16, 32)


@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_start(figures, capsys, monkeypatch, compiles):
    """The cold start finds no bytecode and writes it, MindSpore's too: for long proofs alone, else it is told to."""
    run_program, told = start.run_program, []

    def with_bytecode(words, *, environment, **settings):
        told.append((list(Path(environment["PYTHONPYCACHEPREFIX"]).iterdir()), environment["PYTHONDONTWRITEBYTECODE"]))
        return run_program(words, **settings)

    if not compiles:
        monkeypatch.setattr(start, "run_program", with_bytecode)
    shown = run(f"start --model glm2_tiny --steps 1 --json {figures}", capsys)
    found = json.loads(figures.read_text())
    assert found["cold_s"] > 0
    assert found["warm_s"] == pytest.approx(found["import_s"] + found["load_s"] + found["token_s"])
    assert len(found["runs"]) == 2
    assert "start to first token  glm2_tiny" in shown
    assert told == ([] if compiles else [([], ""), ([], "")])  # both are told to write it to an empty folder


def test_start_of_an_unknown_model_is_one_line(capsys):
    assert command.main(["start", "--model", "glm2_tinny", "--steps", "1"]) == 2
    said = capsys.readouterr().err
    assert "glm2_tinny" in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("in_this_process")
def test_in_turn_with_a_peer(figures, peer, capsys):
    words = f"decode --shape {SHAPE} --context 512 --steps 3 --against llama.cpp {peer} --json {figures}"
    shown = run(words, capsys)
    order = re.findall(r"^round (\d): (ours|llama)", shown, re.M)
    assert order == [("1", "ours"), ("1", "llama"), ("2", "ours"), ("2", "llama")]
    found = json.loads(figures.read_text())
    assert found["peer_tokens_per_s"] == 40
    assert found["ratio"] == pytest.approx(found["tokens_per_s"] / 40)
    assert found["tokens_per_s"] == pytest.approx(sum(mine for mine, _ in found["rounds"]) / 2)
    told = found["peer"][0]
    assert (told["shape"], told["types"], told["prompt"]) == (SHAPE, "f32", "512")
    assert found["peer_process_peak_bytes"] > 1e6
    assert "ratio of medians" in shown
    assert "small 1.0" in shown


@pytest.mark.usefixtures("one_machine")
def test_training_adapters_only():
    settings = Settings(what="train", shape=Shape.read(SHAPE), batch=1, length=8, steps=1, lora=True)
    found = worker.run(settings, begun=time.monotonic())
    assert found["trained_parameters"] == 8 * (32 + 32 + 2 * 2 * 8)
    assert found["last_loss"] < found["first_loss"]


def test_what_a_peer_is_told():
    torch = against.Peer("torch", sys.executable, __file__)
    llama = torch._replace(kind="llama.cpp")
    words = llama.command(Settings(what="decode", dtype="int4", length=300, threads=1))[2:]
    assert words == ["--shape", "8192,512,8,8,2,1376", "--types", "q4_0", "--threads", "1", "--prompt", "300"]
    words = torch.command(Settings(what="decode", dtype="bfloat16"))[2:]
    assert words == ["infer", "--shape", "8192,512,8,8,2,1376", "--dtype", "bf16", "--threads", "1"]
    words = torch.command(Settings(what="train", batch=2, length=16, steps=3, lora=True))[2:]
    assert words[:5] == ["train", "--shape", "8192,512,8,8,2,1376", "--dtype", "fp32"]
    assert words[5:] == ["--threads", "1", "--batch", "2", "--seq", "16", "--steps", "3", "--lora"]
    assert torch._replace(dtype="bf16").command(Settings(what="prefill", dtype="int8"))[6] == "bf16"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("decode --context 100 --against torch", "--context: got 100. torch's script takes a prompt of 512 tokens"),
        ("prefill --prompt 100 --against torch", "--prompt: got 100. torch's script takes a prompt of 512 tokens"),
        ("decode --dtype int8 --against torch", "--dtype: got 'int8'. torch's script has no such type"),
        ("decode --batch 2 --against llama.cpp", "--batch: got 2. The peers' scripts run one sequence at a time."),
        ("train --against llama.cpp", "--against: got 'llama.cpp'. It does not train"),
    ],
)
def test_work_that_a_peer_does_not_do(words, line, peer, capsys):
    assert command.main(shlex.split(f"{words} {peer}")) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_a_missing_peer_is_named(capsys):
    words = f"decode --against torch --peer_python {sys.executable} --peer_script no_peer.py"
    assert command.main(words.split()) == 2
    assert capsys.readouterr().err == "error: --peer_script: got 'no_peer.py'. There is no such file. Check the path.\n"


@pytest.mark.usefixtures("in_this_process")
def test_a_peer_that_prints_no_speed_is_named(tmp_path, capsys):
    script = tmp_path / "other.py"
    script.write_text("print('{\"speed\": 3}')\n")
    place = f"--peer_python {sys.executable} --peer_script {script}"
    words = f"decode --shape {SHAPE} --context 512 --steps 2 --against llama.cpp {place}"
    assert command.main(words.split()) == 2
    assert "other.py printed no number 'decode_tokens_per_s': ['speed']" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_a_chart_is_drawn(tmp_path, figures, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "speed.png"
    words = f"chart --what decode_batch --shape {SHAPE} --points 1,2 --context 8 --steps 2 --output {picture}"
    shown = run(f"{words} --json {figures}", capsys)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 5000
    found = json.loads(figures.read_text())
    assert [(row["point"], row["batch"], row["length"]) for row in found["points"]] == [(1, 1, 8), (2, 2, 8)]
    assert "sequences at once 2, float32" in shown


@pytest.mark.usefixtures("in_this_process")
def test_peers_are_measured_at_every_point(tmp_path, figures, capsys):
    pytest.importorskip("matplotlib")
    script, picture = tmp_path / "a peer.py", tmp_path / "speed.png"
    script.write_text("import json, sys; print(json.dumps({'decode_tokens_per_s': 10 * int(sys.argv[1])}))\n")
    words = f"chart --what decode_batch --shape {SHAPE} --points 1,2 --context 8 --steps 2 --dtype float32,int8"
    peer = f"their int8={sys.executable} '{script}' {{point}}"
    assert command.main([*words.split(), "--output", str(picture), "--json", str(figures), "--peer", peer]) == 0
    found = json.loads(figures.read_text())
    assert [(row["peer"], row["point"], row["tokens_per_s"]) for row in found["peers"]] == [
        ("their int8", 1, 10.0),
        ("their int8", 2, 20.0),
    ]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sequences")]
    assert [line.split(":")[0].split(", ")[1] for line in shown] == ["float32", "int8", "their int8"] * 2
    assert picture.stat().st_size > 5000


def test_a_peer_of_a_chart_that_tells_no_speed_is_named(tmp_path):
    pytest.importorskip("matplotlib")
    script = tmp_path / "other.py"
    script.write_text("print('{\"speed\": 3}')\n")
    peer = chart.Peer("their int8", f"{sys.executable} {script} {{point}}")
    with pytest.raises(UserError, match="their int8: its last line has no number decode_tokens_per_s or tokens_per_s"):
        peer.speed(1, 1)


def test_points_of_the_training_chart_have_the_same_tokens():
    runs = [chart.settings_of("train_sequence", point, {}) for point in chart.CHARTS["train_sequence"].points]
    assert [run.batch * run.length for run in runs] == [2048] * 5
    assert chart.settings_of("train_sequence", 256, {"batch": 1}).batch == 1


def test_a_chart_without_matplotlib_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert command.main(["chart", "--what", "decode_batch"]) == 2
    assert "pip install 'mindformers_glm[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("int8", 0.25, 0.3), ("int4", 0.13, 0.25), ("bfloat16", 0.5, 0.52)]
)
def test_smaller_weights_are_read(dtype, least, most):
    found = {}
    for kind in ("float32", dtype):
        settings = Settings(what="decode", shape=Shape(64, 64, 2, 4, 2, 128), length=8, steps=2, dtype=kind)
        decode = Decode(settings)
        found[kind] = decode.measure()
        assert found[kind]["tokens_per_s"] > 0
    cache = found[dtype]["cache_bytes"] // 64 * 9
    read = [found[kind]["bytes_per_step"] - cache for kind in (dtype, "float32")]
    assert least < read[0] / read[1] < most
