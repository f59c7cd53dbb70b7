"""A gettext catalogue (.po) read and written: as much of the form as this project's catalogue has.

Source: https://www.gnu.org/software/gettext/manual/html_node/PO-Files.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

NOT_SHOWN = "#, not-shown"  # a text of the source that people never read: it needs no translation
_HEAD = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"Language: zh_CN\\n"\n'


class Entry(NamedTuple):
    """A message: its English text, the translated one, and the module that says it first."""

    text: str
    translated: str
    place: str = ""
    is_shown: bool = True


def read(file: Path) -> list[Entry]:
    """The entries of a catalogue in their order, without its head."""
    entries: list[Entry] = []
    found = {"msgid": "", "msgstr": ""}
    part, place, is_shown = "", "", True
    for line in [*file.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith(NOT_SHOWN):
            is_shown = False
        elif line.startswith("#: "):
            place = line[3:]
        elif line.startswith(("msgid ", "msgstr ")):
            part, _, quoted = line.partition(" ")
            found[part] = json.loads(quoted)
        elif line.startswith('"'):
            found[part] += json.loads(line)
        elif not line and part:
            if found["msgid"]:
                entries.append(Entry(found["msgid"], found["msgstr"], place, is_shown))
            found, part, place, is_shown = {"msgid": "", "msgstr": ""}, "", "", True
    return entries


def written(entries: Iterable[Entry]) -> str:
    """The text of a catalogue with these entries."""
    return "\n".join([_HEAD, *map(_block, entries)])


def _block(entry: Entry) -> str:
    lines = [f"#: {entry.place}", *([] if entry.is_shown else [NOT_SHOWN])]
    lines += [f"msgid {_quoted(entry.text)}", f"msgstr {_quoted(entry.translated)}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
