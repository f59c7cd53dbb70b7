"""The messages of the source beside the catalogue: python -m tools.messages

Reads every text that people are shown from the modules in SOURCES (errors and their repairs, `--help`, summaries) and
brings mindformers_glm/messages/zh_CN.po in step: new messages come in without a text, old ones go. What has no Chinese
text yet is printed. tests/test_translations.py fails until each has one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mindformers_glm.files import write_text
from mindformers_glm.messages import CATALOGUE
from mindformers_glm.messages.po import Entry, read, written

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mindformers_glm"
SOURCES = (  # files and folders, from the first that users meet
    "errors.py",
    "files.py",
    "requirements.py",
    "registry.py",
    "runtime.py",
    "config",
    "cli",
    "tasks",
    "assembly",
    "data",
    "checkpoint",
    "generation",
    "serving/conversation.py",
    "serving/loading.py",
    "serving/terminal.py",
    "serving/http/server.py",
    "train",
    "tokenizers",
    "models",
    "adapters",
    "evaluation",
    "quantization",
    "export",
    "benchmark",
    "conformance",
    "auto.py",
    "pipeline.py",
)
MORE = (  # messages of one word and values, and those of argparse
    "from {least} to {most}",
    "above {low}",
    "between {least} and {most}",
    "It should be at least {least}",
    "It should be at most {most}",
    "It should be {what}",
    "{names} and {number} more",
    "got {got}",
    "number",
    "error: {message}. See {program} --help",
    "the following arguments are required: {names}",
    "unrecognized arguments: {words}",
    "invalid choice: {value} (choose from {choices})",
    "expected one argument",
    "expected at least one argument",
    "expected {number} arguments",
    "not allowed with argument {other}",
    "one of the arguments {names} is required",
    "invalid {kind} value: {value}",
    "ignored explicit argument {value}",
)
SAID = ("demo",)  # folders beside the package: what they give to `say`
WITHOUT = (  # texts of these stand in both languages in the table of keys, or are no messages
    "config/texts.py",
    "config/legacy.py",
    "config/documents.py",
    "config/keys.py",
    "cli/documents",
)
_PROSE = re.compile(r"[A-Za-z]{2,}(?:'s)?[,;:.)'’`]* [(`'\"]?[A-Za-z]+")
_SILENT = ("logger.", "re.", "warnings.")  # what these say goes to log files, or to nobody
_BESIDE = ("str", "join", "len", "sorted", "shorten", "listed", "shown", "repr", "max", "min", "kind_of", "name", "map")


def messages() -> dict[str, str]:
    """Message -> the file that says it first, in the order of SOURCES."""
    found: dict[str, str] = {}
    for file in files():
        for text in of_source(file.read_text(encoding="utf-8")):
            found.setdefault(text, file.relative_to(PACKAGE).as_posix())
    for file in sorted(file for folder in SAID for file in (ROOT / folder).glob("*.py")):
        for text in of_source(file.read_text(encoding="utf-8"), said_alone=True):
            found.setdefault(text, file.relative_to(ROOT).as_posix())
    return found | {text: "tools/messages.py" for text in MORE if text not in found}


def files() -> Iterator[Path]:
    """The modules whose messages are translated."""
    left_out = [PACKAGE / name for name in WITHOUT]
    for name in SOURCES:
        place = PACKAGE / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if not any(file == other or other in file.parents for other in left_out):
                yield file


def of_source(source: str, *, said_alone: bool = False) -> list[str]:
    """The texts of a module that read as English, and whatever `say` is given; an f-string's values become names."""
    tree = ast.parse(source)
    documented = {id(text) for node in ast.walk(tree) for text in _bare_texts(node)}
    found: list[str] = []

    def walk(node: ast.AST) -> None:
        if id(node) in documented:
            return
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.startswith(_SILENT):
                return
            if called == "say" and isinstance(node.args[0], ast.Constant):
                found.append(node.args[0].value)
                for rest in [*node.args[1:], *node.keywords]:
                    walk(rest)
                return
        if said_alone:
            for child in ast.iter_child_nodes(node):
                walk(child)
        elif isinstance(node, ast.JoinedStr):
            text, literal = _template(node)
            if _PROSE.search(literal):
                found.append(text)
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    walk(part.value)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and _PROSE.search(node.value):
                found.append(
                    node.value.replace("{", "{{").replace("}", "}}") if _is_literal(node.value) else node.value
                )
        else:
            for child in ast.iter_child_nodes(node):
                walk(child)

    walk(tree)
    if "description=__doc__" in source and not said_alone:
        found.append((ast.get_docstring(tree, clean=False) or "").strip())
    return found


def _bare_texts(node: ast.AST) -> Iterator[ast.Constant]:
    for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            yield statement.value


def _is_literal(text: str) -> bool:
    """Whether braces in a plain text are braces, not the names that `str.format` fills."""
    return "{" in text and not re.fullmatch(r"(?:[^{}]|\{[a-z_]+\})*", text)


def _template(node: ast.JoinedStr) -> tuple[str, str]:
    """The text with a name for each value, and the text without values."""
    names: list[str] = []
    text = literal = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += part.value.replace("{", "{{").replace("}", "}}")
            literal += part.value
            continue
        name = base = _name(part.value)
        number = 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
        text, literal = f"{text}{{{name}}}", f"{literal}{{}}"
    return text, literal


def _name(value: ast.AST) -> str:
    words = [node.id if isinstance(node, ast.Name) else node.attr for node in ast.walk(value)
             if isinstance(node, (ast.Name, ast.Attribute))]  # fmt: skip
    telling = [word for word in words if word not in _BESIDE] or words or ["value"]
    return telling[0].strip("_").lower() or "value"


def in_step(catalogue: list[Entry], found: dict[str, str]) -> list[Entry]:
    """The entries of the messages that were found, with the texts that the catalogue has for them."""
    known = {entry.text: entry for entry in catalogue}
    blank = Entry("", "")
    return [known.get(text, blank)._replace(text=text, place=place) for text, place in found.items()]


def main() -> int:
    """Writes the catalogue; 1 while a message has no Chinese text."""
    entries = in_step(read(CATALOGUE) if CATALOGUE.exists() else [], messages())
    write_text(CATALOGUE, written(entries))
    missing = [entry for entry in entries if entry.is_shown and not entry.translated]
    for entry in missing:
        print(f"{entry.place}: {entry.text!r}")
    print(f"{len(entries)} messages, {len(missing)} without a Chinese text")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
