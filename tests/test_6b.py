"""The walk of docs/6b.md: its figures are the planner's, and every command runs on a small folder of the same form."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import forked
import pytest

from mindformers_glm.cli import plan_memory

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- (run|serve) -->\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SIZES = {  # those of glm3_tiny, instead of 6B
    "num_layers": 6, "hidden_size": 256, "ffn_hidden_size": 640, "num_attention_heads": 8, "kv_channels": 32,
    "padded_vocab_size": 4608, "compute_dtype": "float32",
}  # fmt: skip
LENGTHS = {
    "model.model_config.seq_length": 256,
    "train_dataset.max_seq_length": 256,
    "eval_dataset.max_seq_length": 256,
}
EXPORTED = {
    "model.model_config.seq_length": 64, "infer.infer_seq_length": 64, "model.model_config.batch_size": 1,
    "model.model_config.param_init_type": "float32",
}  # fmt: skip


def page(language: str = "") -> str:
    return (ROOT / f"docs/6b{language}.md").read_text(encoding="utf-8")


def commands(kind: str) -> list[str]:
    return [line for mark, text in BLOCK.findall(page()) if mark == kind for line in text.splitlines() if line]


def small(line: str) -> list[str]:
    """The words of a command, with the sizes of the small folder; one word of msrun's is a command itself."""
    words = shlex.split(line)
    options = {f"model.model_config.{name}": value for name, value in SIZES.items()}
    if " run " in line:
        options |= LENGTHS
    elif " export " in line:
        options |= EXPORTED
    else:
        return words
    return [
        *words,
        "--device_target",
        "CPU",
        *(word for key, value in options.items() for word in (f"--{key}", str(value))),
    ]


def test_both_languages_show_the_same():
    assert BLOCK.findall(page()) == BLOCK.findall(page("_CN"))
    for mark in (r"^## ", r"^\| "):
        assert len(re.findall(mark, page(), re.M)) == len(re.findall(mark, page("_CN"), re.M))
    assert commands("run") and commands("serve")


def test_figures_are_those_of_the_planner(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    planned = [line for line in commands("run") if line.startswith("mindformers-glm plan ")]
    said = {}
    for line in planned:
        plan_memory.main(shlex.split(line)[2:])
        said[line] = capsys.readouterr().out
    one, eight, served = said.values()
    assert re.search(r"\| 1 x 1 \(as shipped\) .*\| 13\.7 \|", one)
    assert re.search(r"^\| 1 x 1 x 1 x 1 .*\| 3\.053 \|", one, re.M)
    assert re.search(r"\| 8 x 1, zero_level 3 .*\| 4\.1 \|", eight)
    assert re.search(r"^\| 8 x 1 x 1 x 1 .*\| 0\.382 \|", eight, re.M)
    assert re.search(r"\| float16 \| 1 \| 11\.6 \| 0\.22 \| \d+ \| 14\.9 \| 122 \|", served)
    assert re.search(r"\| float16 \| 8 \| 1\.5 \| 0\.11 \| \d+ \| 1\.9 \|", served)
    assert re.search(r"\| w8a8 \| 1 \| 6\.3 \| 0\.22 \| \d+ \| 7\.8 \|", served)
    figures = ["13.7", "3.05", "0.38", "4.1", "11.6", "0.22", "14.9", "122", "1.5", "0.11", "1.9", "6.3", "7.8"]
    for language in ("", "_CN"):
        assert [figure for figure in figures if figure not in page(language)] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout's folders, a small `chatglm3-6b` in the official form, and data."""
    folder = tmp_path_factory.mktemp("walk")
    for name in ("configs", "mindformers_glm", "run_mindformer.py", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    words = "--config configs/tiny/run_glm3_tiny.yaml --to hf --tokenizer glm3_tiny"
    run(["", "convert", "--input_path", "glm3_tiny", *words.split(), "--output_path", "chatglm3-6b"], folder)
    rows = [{"instruction": f"说一句话，第 {i} 句", "output": f"今天是第 {i} 天，天气很好。"} for i in range(24)]
    texts = [{"text": "春天来了，山坡上的草都绿了，花也开了。" * 6}] * 8
    for name, lines in (("my.jsonl", rows), ("rows.jsonl", texts), ("texts.jsonl", texts)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "questions.txt").write_text("你好\n说一句话\n", encoding="utf-8")
    (folder / "texts.txt").write_text("春天来了，山坡上的草都绿了。\n花也开了。\n" * 4, encoding="utf-8")
    return folder


def run(words: list[str], folder: Path) -> str:
    """Standard output and error of a command that ended well."""
    done = forked.run(["-m", "mindformers_glm", *words[1:]], cwd=folder)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def walked(folder) -> dict[str, str]:
    """What each command of the walk said, in one process."""
    lines = [line for line in commands("run") if line.startswith("mindformers-glm ")]
    assert len(lines) == 12
    return {line.split()[1]: run(small(line), folder) for line in lines}


@pytest.mark.slow
@pytest.mark.dist
def test_the_walk_in_one_process(walked):
    said = walked
    assert "no problems found" in said["inspect"] and "24 usable, 0 skipped" in said["inspect-data"]
    assert "Trained " in said["run"] and "logits agree" in said["merge-lora"]
    assert "perplexity on general text" in said["compare"] and "byte_perplexity" in said["evaluate"]
    assert "written: merged_w8a8" in said["quantize"] and "Exported to glm3_export" in said["export"]


def _free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.dist
def test_the_walk_in_two_processes(folder):
    (line,) = [line for line in commands("run") if line.startswith("bash ")]
    launcher, script, job, size = shlex.split(line)
    assert size == "8"
    two = job.replace("data_parallel 8", "data_parallel 2")
    inner = " ".join(small(f"mindformers-glm run {two.removeprefix('run_mindformer.py ')}")[2:])
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = [launcher, script, f"run_mindformer.py {inner}", "2", _free_port(), "output/msrun_log", "True", "600"]
    surroundings = {**os.environ, "PATH": python}
    done = subprocess.run(words, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list(folder.glob("law8/checkpoint_network/rank_*/*.ckpt"))) == 2


@pytest.mark.slow
@pytest.mark.dist
def test_the_servers_of_the_walk_answer(folder, walked):
    for line in commands("serve"):
        words = shlex.split(line.replace("--tp_size 8", "--tp_size 2").replace("--port 8000", "--port 0"))
        server = subprocess.Popen(
            [sys.executable, "-m", "mindformers_glm", *words[1:], "--device_target", "CPU", "--seq_length", "128"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            told = next(found for text in server.stdout if (found := re.search(r"at (http://[\d.:]+)", text)))
            with urllib.request.urlopen(f"{told[1]}/v1/models", timeout=60) as models:
                assert json.load(models)["data"], line
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=120)
