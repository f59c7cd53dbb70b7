"""The demo that calls a tool: its data, its figures, and among the slow tests a small real run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo import run_server  # noqa: E402
from demo.run_tool import HELD_BACK, ToolDemo  # noqa: E402
from demo.tool_data import NAME, TOOLS, asked, conversations, products  # noqa: E402
from mindformers_glm.data.conversations import ConversationDataLoader  # noqa: E402


def test_products_are_held_back_and_the_same_each_time():
    assert products(1) == products(1) != products(2)
    assert len(set(products(1))) == len(products(1)) > 5 * HELD_BACK
    held = set(products(1)[:HELD_BACK])
    rows = list(conversations(random.Random(1), products(1)[HELD_BACK:], 200))
    named = {call["function"]["arguments"]["product"] for row in rows for message in row["messages"]
             for call in message.get("tool_calls", [])}  # fmt: skip
    assert named and not named & held
    assert {len(row["messages"]) for row in rows} == {2, 4}


def test_a_reply_says_what_the_tool_says():
    for seed in range(20):
        one = asked(random.Random(seed), "红色裙子")
        assert one.product in one.question
        assert one.reply == f"红色裙子的{one.result}。"


def test_training_reads_the_conversations(tmp_path, capsys):
    demo = ToolDemo(tmp_path, train_lines=12, eval_lines=4)
    demo.make_data()
    stories = ConversationDataLoader(str(demo.train_file)).rows
    assert len(stories) == 12
    assert json.loads(demo.tools_file.read_text(encoding="utf-8")) == TOOLS
    assert len(demo.questions()) == 4
    assert NAME in capsys.readouterr().out


def test_an_earlier_run_counts_only_with_its_weights_and_sizes(tmp_path):
    demo = ToolDemo(tmp_path, train_lines=12, eval_lines=4)
    assert demo.earlier() is None
    weights = demo.model / "checkpoint_network/rank_0/demo.ckpt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x")
    demo.results.write_text(json.dumps({"fingerprint": demo.fingerprint(), "metrics": {}, "losses": []}))
    assert demo.earlier() is not None
    assert ToolDemo(tmp_path, train_lines=13, eval_lines=4).earlier() is None


def test_serving_before_training_says_what_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEMO_OUTPUT", str(tmp_path))
    assert run_server.main() == 2
    assert "make demo" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_learns_to_call(tmp_path):
    command = [sys.executable, str(ROOT / "demo/run_tool.py"), "--output_dir", str(tmp_path), "--no_chat"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env={**os.environ, "AGAIN": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["metrics"]
    assert figures["after"]["calls"] >= 90 and figures["after"]["replies"] >= 90
    assert figures["after"]["calls"] > figures["before"]["calls"] + 10  # glm3_tiny knows how to call, not this tool
    (line,) = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("$ ") and " chat " in line]
    talk = subprocess.run(
        line[2:], cwd=ROOT, shell=True, input="红色裙子多少钱？\n价格199元\n",
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert talk.returncode == 0 and talk.stdout.startswith("答："), talk.stderr
