"""Every command of docs/migration.md, in both languages, is one that this suite takes as it is written."""

import re
import shlex
from pathlib import Path

import pytest

from mindformers_glm.cli.commands import COMMANDS

DOCUMENTS = ("migration.md", "migration_CN.md")
_RUN = re.compile(r'run\("([\w-]+)"\)')


def commands(root: Path, name: str) -> list[str]:
    text = (root / "docs" / name).read_text(encoding="utf-8")
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines() if line]


def parsed(command: str, words: list[str]) -> None:
    COMMANDS[command].parser().parse_args(words)


def check(root: Path, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "bash":
        assert (root / words[1]).is_file(), words[1]
        if words[1].endswith("test_benchmark.sh"):
            parsed("cambricon-benchmark", words[2:])
        return
    if words[0] == "mindformers-glm":
        parsed(words[1], words[2:])
        return
    if words[1] == "-m":
        from mindformers_glm.benchmark.command import build_parser

        build_parser().parse_args(words[3:])
        return
    if words[1] == "run_mindformer.py":
        from mindformers_glm.config.arguments import read_command_line

        assert read_command_line(words[2:]).path.name.endswith(".yaml")
        return
    found = _RUN.search((root / words[1]).read_text(encoding="utf-8"))
    assert found, words[1]
    parsed(found.group(1), words[2:])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_command_is_taken_as_written(root, name):
    lines = commands(root, name)
    assert len(lines) == 27
    for line in lines:
        check(root, line)


def test_both_languages_show_the_same_commands(root):
    assert commands(root, "migration.md") == commands(root, "migration_CN.md")
