"""How large a YAML file may be: counted before memory is taken or time spent, and the hints of a file misread."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import yaml

from mindformers_glm.errors import ConfigError

MOST_BYTES = 512 * 1024  # the largest file of MindFormers has 12 kB; PyYAML reads some 100 kB in a second
MOST_VALUES = 100_000  # keys and values, what an alias stands for being counted wherever it stands
MOST_LEVELS = 100
_FULLWIDTH = re.compile("[\uff01-\uff5e\u3000\u201c\u201d\u2018\u2019\u3001\u3002]")
_NAMES = {
    "\uff1a": ("full-width colon", "`: ` (a colon and a space)"),
    "\uff0c": ("full-width comma", "`, `"),
    "\u3000": ("full-width space", "a space"),
    "\u201c": ("typographic quote", '`"`'),
    "\u201d": ("typographic quote", '`"`'),
    "\u2018": ("typographic quote", "`'`"),
    "\u2019": ("typographic quote", "`'`"),
}


def read_text(path: Path) -> str:
    """The text of a YAML file that is a file, not too large, and UTF-8.

    Raises:
        ConfigError: it is not.
    """
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise ConfigError("config", str(path), "This is a folder; name a YAML file in it.")
        if not stat.S_ISREG(kind):
            raise ConfigError("config", str(path), "This is a device or a pipe; name a YAML file.")
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except ConfigError:  # a ValueError too
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError("config", str(path), "There is no such file. Check the path.") from None
    except OSError as error:
        fix = f"The file cannot be read ({error.strerror}): check its name and permissions."
        raise ConfigError("config", str(path), fix) from None
    except ValueError:  # a null character in the name
        raise ConfigError("config", str(path), "This can be no file name. Check the path.") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(
            "config", str(path), f"The file is larger than {MOST_BYTES // 1024} kB; name the YAML of a run."
        )
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError("config", str(path), "The file is UTF-16 text: save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fix = f"The file is not UTF-8 text (byte {error.start}): save it as UTF-8."
        raise ConfigError("config", str(path), fix) from None


def check_nodes(root: yaml.Node | None) -> None:
    """Raises a YAML error when a document is too large once its aliases are followed, or nested too deeply."""
    sizes: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> tuple[int, int]:
        """(keys and values, levels) of a node; one that contains itself is refused later, by name."""
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes or isinstance(node, yaml.ScalarNode):
            return 1, 1
        open_nodes.add(id(node))
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        below = [size(part) for part in parts]
        open_nodes.discard(id(node))
        found = 1 + sum(count for count, _ in below), 1 + max((levels for _, levels in below), default=0)
        if found[0] > MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"with its aliases it holds more than {MOST_VALUES} values", node.start_mark
            )
        if found[1] > MOST_LEVELS:
            raise yaml.constructor.ConstructorError(
                None, None, f"it is nested more than {MOST_LEVELS} levels deep", node.start_mark
            )
        sizes[id(node)] = found
        return found

    if root is not None:
        size(root)


def fullwidth_hint(text: str, line: int) -> str:
    """A sentence that names the full-width mark nearest before `line` (from 0) of a file, empty where there is none.

    Marks in comments and inside quotes mislead nobody.
    """
    lines = text.splitlines()
    for number in range(min(line, len(lines) - 1), -1, -1):
        bare = re.sub(r"(^|\s)#.*|\"[^\"]*\"|'[^']*'", "", lines[number])
        found = _FULLWIDTH.search(bare)
        if found:
            name, instead = _NAMES.get(found.group(), ("full-width character", "the ASCII one"))
            return f" In line {number + 1} stands a {name} ({found.group()}): write {instead}."
    return ""
