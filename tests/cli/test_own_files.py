"""A new user's eight files: each becomes a tuned model that is chatted with, by two commands, no YAML edited.

Every reply of the files is the same sentence, so that the tuned model says it; running text is only learned. The first
page of docs/training.md does the same with an alpaca file, and tests/test_guides.py runs it in the default tier.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import forked
import pytest

REPLY = "今天天气很好"
QUESTIONS = [f"问题 {i}：天气怎么样？" for i in range(32)]
GLM2, GLM3 = "configs/tiny/run_glm2_tiny_own_data.yaml", "configs/tiny/run_glm3_tiny_own_data.yaml"


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def alpaca(path: Path) -> None:
    rows = [{"instruction": question, "input": "", "output": REPLY} for question in QUESTIONS]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")


def sharegpt(path: Path) -> None:
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": REPLY}] for q in QUESTIONS]
    path.write_text(json.dumps([{"id": i, "conversations": said} for i, said in enumerate(turns)]), encoding="utf-8")


def messages(path: Path) -> None:
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": REPLY}] for q in QUESTIONS]
    lines(path, [{"messages": said} for said in turns])


def table(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["prompt", "response"], *([q, REPLY] for q in QUESTIONS)])


def parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"question": QUESTIONS, "answer": [REPLY] * len(QUESTIONS)}), path)


def history(path: Path) -> None:
    lines(path, [{"prompt": q, "response": REPLY, "history": [["在吗？", REPLY]]} for q in QUESTIONS])


def tools(path: Path) -> None:
    tool = {"name": "weather", "description": "天气", "parameters": {"type": "object", "properties": {}}}
    call = {"role": "tool", "name": "weather", "parameters": {}, "observation": "晴"}
    last = {"role": "assistant", "content": REPLY}
    rows = [{"tools": [tool], "conversations": [{"role": "user", "content": q}, call, last]} for q in QUESTIONS]
    rows += [{"conversations": [{"role": "user", "content": q}, last]} for q in QUESTIONS]
    lines(path, rows)


def text(path: Path) -> None:
    path.write_text(f"{REPLY}。\n" * 600, encoding="utf-8")


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "alpaca.json": (alpaca, GLM2),
    "sharegpt.json": (sharegpt, GLM2),
    "messages.jsonl": (messages, GLM2),
    "table.csv": (table, GLM2),
    "rows.parquet": (parquet, GLM2),
    "history.jsonl": (history, GLM2),
    "tools.jsonl": (tools, GLM3),
    "plain.txt": (text, GLM2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_two_commands_from_a_file_to_a_model_that_answers(root, tmp_path, name):
    write, config = FILES[name]
    write(tmp_path / name)
    words = ["-m", "mindformers_glm", "run", "--config", root / config, "--train_dataset_dir", tmp_path / name]
    tuned = forked.run([*words, "--epochs", "2", "--batch_size", "1"], cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stdout[-3000:] + tuned.stderr[-3000:]
    words = ["-m", "mindformers_glm", "chat", "--model", tmp_path / "output"]
    said = forked.run(words, cwd=tmp_path, input=f"{QUESTIONS[3]}\n")
    assert said.returncode == 0, said.stdout[-3000:] + said.stderr[-3000:]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "output/loss_history.jsonl").read_text().splitlines()]
    assert sum(losses[-4:]) < 0.2 * sum(losses[:4])
    assert (REPLY if name != "plain.txt" else "答：") in said.stdout
