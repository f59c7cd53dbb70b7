"""docs/documents.md, row by row: each command and option of the five documents is taken as it is typed there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mindformers_glm.cli.commands import COMMANDS
from mindformers_glm.cli.documents.environment import VARIABLES
from mindformers_glm.config.arguments import read_command_line

ROOT = Path(__file__).parents[3]
STATES = ("runs", "differs", "device", "outside")
OF_A_SERVER = ("hccl_tools", "merge_hccl", "check_hccl")  # these need nothing but Python 3.7


def rows(page: str) -> list[tuple[str, str, str]]:
    """(command before it, words, state) of every row."""
    base, found = "", []
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            base = ""
        elif line.startswith("`") and line.endswith("`"):
            base = line.strip("`")
        elif line.startswith("| `"):
            words, state = (cell.strip() for cell in line.split("|")[1:3])
            found.append((base, words.strip("`"), state))
    return found


ROWS = rows("documents.md")


def parsed(command: str, words: list[str]) -> None:
    COMMANDS[command].parser().parse_args(words)


def taken(words: list[str]) -> None:
    """Raises unless a command of ours takes the words."""
    if words[0] == "export":
        name, value = words[1].split("=")
        assert name in VARIABLES and value
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file(), words[1]
        if words[1].endswith("test_benchmark.sh"):
            parsed("cambricon-benchmark", words[2:])
        for config in words[2:]:
            assert not config.endswith(".yaml") or (ROOT / config).is_file(), config
    elif words[0] == "mindformers-glm":
        parsed(words[1], words[2:])
    elif words[1] == "run_mindformer.py":
        assert (ROOT / read_command_line(words[2:]).path).is_file()
    elif Path(words[1]).stem in OF_A_SERVER:
        text = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in text for word in words[2:] if word.startswith("--")), words
    else:
        found = re.search(r'run\("([\w-]+)"\)', (ROOT / words[1]).read_text(encoding="utf-8"))
        assert found, words[1]
        parsed(found.group(1), words[2:])


@pytest.mark.parametrize(("base", "words", "state"), ROWS, ids=[f"{n}" for n in range(len(ROWS))])
def test_each_is_taken_as_typed(base, words, state):
    assert state in STATES
    if state != "outside":
        taken(shlex.split(f"{base} {words}"))


def test_variables_that_a_script_is_said_to_have_are_in_it():
    for line in (ROOT / "docs/documents.md").read_text(encoding="utf-8").splitlines():
        script = re.match(r"\| `(scripts/chatglm3/\S+)` \|", line)
        if script and "variables" in line:
            text = (ROOT / script.group(1)).read_text(encoding="utf-8")
            for name in re.findall(r"\b[A-Z][A-Z_]+\b", line.partition("variables")[2]):
                assert f"{name}=" in text, (script.group(1), name)


def test_both_languages_list_the_same():
    assert rows("documents_CN.md") == ROWS and len(ROWS) > 120


def test_an_option_that_nobody_takes_is_seen():
    with pytest.raises(SystemExit):
        taken(["python", "tools/main.py", "--model_path", "m", "--seqlen_pair", "1"])
    with pytest.raises(AssertionError):
        taken(["export", "ATB_SOMETHING=1"])
