"""mindformers-glm as a user types it; on a Python that cannot run it, too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_glm.cli.commands import COMMANDS
from mindformers_glm.cli.console import completion_parser, main
from mindformers_glm.requirements import unmet
from mindformers_glm.version import __version__


def typed(*words: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, *words], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed and command.help in printed for name, command in COMMANDS.items())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"mindformers-glm {__version__}"


def test_every_command_is_there():
    for name, command in COMMANDS.items():
        assert callable(command.load()), name
        parser = command.parser()
        assert parser is None or parser.format_help(), name


@pytest.mark.parametrize(
    "words, told", [(["chatt"], "Did you mean chat?"), (["xyz"], "--help tells the commands: run, chat")]
)
def test_an_unknown_command_is_one_line(words, told, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_help_and_version_import_neither_mindspore_nor_numpy(root):
    script = (
        "import sys; from mindformers_glm.cli.console import main; assert main(['--help']) == 0;"
        "assert main(['--version']) == 0; print(sorted({'mindspore', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = typed("-c", script, PYTHONPATH=str(root))
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


HELPS = """
import contextlib, importlib.abc, io, sys
from mindformers_glm.cli.commands import COMMANDS
from mindformers_glm.cli.console import main

class NoMindSpore(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "mindspore" or name.startswith("mindspore."):
            raise AssertionError(f"{command} --help imports MindSpore")

HEAVY = {f"mindformers_glm.{name}" for name in ("assembly", "data.build", "generation", "models.glm.config")}
sys.meta_path.insert(0, NoMindSpore())
for command in COMMANDS:
    said, sys.argv[0] = io.StringIO(), "/usr/bin/mindformers-glm"
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert len(said.getvalue()) > 50, command
    usage = [line for line in said.getvalue().splitlines() if line.startswith("usage: ")]
    assert all(line.startswith(f"usage: mindformers-glm {command} ") for line in usage), usage
    assert not HEAVY & set(sys.modules), f"{command} --help imports what is heavy: {HEAVY & set(sys.modules)}"
"""


def test_no_commands_help_imports_mindspore_or_what_computes(root):
    """All in one process, which is quick: what one command imported, the next would not import again. And each calls
    itself by the name that was typed.
    """
    done = typed("-c", HELPS, PYTHONPATH=str(root))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["plan", "--help"], ["plan", "--devices", "8"]])
def test_a_reader_that_has_gone_is_no_fault(root, words):
    """As with `| head -1`."""
    command = [sys.executable, "-m", "mindformers_glm", *words]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_mindformers_glm_is_the_same(root):
    done = typed("-m", "mindformers_glm", "plan", "--devices", "0", PYTHONPATH=str(root))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --devices: got '0', give a whole number from 1 to ")
    assert done.stderr.endswith("See mindformers-glm plan --help\n") and done.stderr.count("\n") == 1


def test_a_tool_is_its_command(root, capsys):
    assert main(["plan", "--devices", "8"]) == 0
    table = capsys.readouterr().out
    done = typed(str(root / "tools/plan_memory.py"), "--devices", "8", PYTHONPATH=str(root))
    assert done.stdout == table and done.stderr == ""


def test_completion_knows_commands_and_the_options_of_the_chosen_one():
    offered = completion_parser([])
    listed = re.search(r"{(.+?)}", offered.format_help(), re.DOTALL)[1]
    assert re.sub(r"\s", "", listed).split(",") == list(COMMANDS)
    assert completion_parser(["plan"]).parse_args(["plan", "--devices", "8"]).devices == 8
    assert offered.parse_known_args(["plan", "--devices", "8"])[1] == ["--devices", "8"]  # not imported: not chosen


def test_the_shell_is_answered(root, tmp_path):
    """As bash asks through argcomplete: what can follow `mindformers-glm plan --de`."""
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    line = "mindformers-glm plan --de"
    typed(
        "-m", "mindformers_glm",
        PYTHONPATH=str(root), _ARGCOMPLETE="1", COMP_LINE=line, COMP_POINT=str(len(line)), _ARGCOMPLETE_IFS="\n",
        _ARGCOMPLETE_STDOUT_FILENAME=str(answer), _ARGCOMPLETE_SUPPRESS_SPACE="1",
    )  # fmt: skip
    assert answer.read_text().split() == ["--devices"]


def test_requirements_that_are_not_met():
    assert unmet((3, 10, 4)) is None and unmet((3, 11, 0)) is None
    for version in ((3, 9, 18), (3, 12, 1), (3, 13, 0)):
        assert "Python 3.10 or 3.11" in unmet(version)
    said = unmet((3, 11, 0), {"numpy": "numpy", "no_such_module": "no-such-package"})
    assert "no-such-package is not installed" in said and "activate" in said and "\n" not in said


WAYS = (
    *(["-m", "mindformers_glm"], ["-m", "mindformers_glm.benchmark"], ["run_mindformer.py"], ["tools/chat.py"]),
    *(["demo/run_demo.py"], ["demo/run_tool.py"], ["demo/run_server.py"]),
)


def test_without_packages_every_way_in_is_one_line(root):
    for words in WAYS:
        done = subprocess.run(
            [sys.executable, "-S", *words, "--help"], cwd=root, env={"PATH": os.environ["PATH"]},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode != 0 and done.stdout == "", words
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "activate" in done.stderr, words


@pytest.mark.parametrize("minor", [7, 9, 12, 13])
def test_another_python_is_told_in_one_line(root, minor):
    found = next(map(str, sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))), None)
    found = found or shutil.which(f"python3.{minor}")
    if found is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    for words in WAYS:
        done = subprocess.run(
            [found, *words, "--help"], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "Python 3.10 or 3.11" in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
