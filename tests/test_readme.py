"""Every command and program in README.md runs as written; README_CN.md shows the same ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINKED = ("configs", "tools", "mindformers_glm", "run_mindformer.py", "Makefile", "scripts", "demo")
SECONDS = 300
SERVED = ("echo ", "mindformers-glm serve ", "curl ")  # those of the section on chat and server


def blocks(name: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


def commands() -> list[str]:
    return [line for kind, text in blocks("README.md") if kind == "bash" for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that looks like the checkout, so that what the commands write stays out of it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(words: list[str] | str, folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path},
        shell=isinstance(words, str),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def test_both_languages_show_the_same_commands():
    assert blocks("README.md") == blocks("README_CN.md")
    assert commands()


def test_both_languages_have_the_same_sections():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_CN.md"))
    for mark in (r"^## ", r"^\| ", r"\]\([A-Za-z_/.]+\)"):
        assert len(re.findall(mark, english, re.M)) == len(re.findall(mark, chinese, re.M))


def test_links_lead_somewhere():
    for name in ("README.md", "README_CN.md"):
        for target in re.findall(r"\]\(([A-Za-z_/.]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name} links to {target}"


def figures(said: str) -> list[float]:
    """ROUGE and BLEU that an evaluation printed."""
    return [float(re.search(rf"{name}: +([\d.]+)", said)[1]) for name in ("rouge-1", "rouge-2", "rouge-l", "bleu-4")]


def told_figures(name: str = "README.md") -> list[list[float]]:
    """The rows of README's table before and after training."""
    rows = re.findall(r"^\| [^|]+ \|((?: [\d.]+ \|){4})$", (ROOT / name).read_text(encoding="utf-8"), re.M)
    return [[float(cell) for cell in row.split("|")[:4]] for row in rows]


def test_both_languages_tell_the_same_figures():
    assert len(told_figures()) == 2
    assert told_figures() == told_figures("README_CN.md")


def test_make_knows_the_targets(folder):
    named = [line for line in commands() if line.startswith("make ")]
    assert named
    for line in named:
        run(line.replace("make ", "make --dry-run ", 1), folder)  # tests/test_demo.py and CI run them


def test_chat_and_server_answer_as_written(folder):
    talk, serve, ask = (line for line in commands() if line.startswith(SERVED))
    assert "你好" in run(talk, folder).stdout
    words = ["-m", "mindformers_glm", *shlex.split(serve.replace("--port 8000", "--port 0"))[1:]]
    server = forked.Child(words)
    try:
        told = next(found for line in server.stdout if (found := re.search(r"at (http://[\d.:]+)", line)))
        said = run(ask.replace("http://127.0.0.1:8000", told[1]), folder).stdout
        assert json.loads(said)["choices"][0]["message"]["content"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0


def test_commands_run_as_written(folder):
    python = [line for line in commands() if line.startswith("python ")]
    assert len(python) == len([line for line in commands() if not line.startswith(("make ", ". ", *SERVED))])
    said = {line: forked.run(shlex.split(line)[1:], cwd=folder) for line in python}
    assert not [done.stderr for done in said.values() if done.returncode]
    assert list((folder / "output" / "checkpoint" / "rank_0").glob("*.ckpt"))
    evaluated = [figures(done.stdout) for line, done in said.items() if "--run_mode eval" in line]
    before, after = (row for row in told_figures())
    assert evaluated[0] == pytest.approx(before, abs=1)
    assert evaluated[1] == pytest.approx(after, abs=4) and min(map(float.__sub__, evaluated[1], evaluated[0])) > 4
    result = (folder / "text_generation_result.txt").read_text(encoding="utf-8")
    assert "答： 你好" in result or "答：你好" in result
    programs = [text for kind, text in blocks("README.md") if kind == "python"]
    for number, text in enumerate(programs):
        (folder / f"program_{number}.py").write_text(text, encoding="utf-8")
        done = forked.run([f"program_{number}.py"], cwd=folder)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr[-3000:]
