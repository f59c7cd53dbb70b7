"""One input of a user who errs or means harm, and ways to spoil files. Everything random comes from a fixed seed."""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SEED = 20240
Content = str | bytes | Path | Callable[[Path], Any]
Expected = Literal["refused", "accepted", "either"]


@dataclass(frozen=True)
class Input:
    """Words of mindformers-glm (of a script, where the first ends in .py), or Python `code`, in a folder with `files`.

    A refusal must name one of `names`. `expected` "either": both are right, as long as nothing worse happens.
    A run ends where its first graph would be compiled, unless it is `whole`. `replaced` files may be written anew.
    """

    family: str
    name: str
    words: tuple[str, ...] = ()
    code: str = ""
    files: Mapping[str, Content] = field(default_factory=dict)
    expected: Expected = "refused"
    names: tuple[str, ...] = ()
    stdin: str = ""
    whole: bool = False
    replaced: tuple[str, ...] = ()

    def lay_out(self, folder: Path) -> None:
        """Writes the files; a path is copied, a function called with the place."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                (shutil.copytree if content.is_dir() else shutil.copyfile)(content, path)
            elif callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)


def generator(family: str) -> random.Random:
    """The source of chance of one family."""
    return random.Random(f"{SEED} {family}")


def drawn(source: Iterable[Input], count: int, family: str) -> list[Input]:
    """At most `count` of the inputs, evenly drawn, in their order."""
    every = list(source)
    chosen = generator(f"{family} drawn").sample(range(len(every)), min(count, len(every)))
    return [every[index] for index in sorted(chosen)]


# --- things that stand where a file is expected ------------------------------------------------------------------


def folder(path: Path) -> None:
    """An empty folder."""
    path.mkdir()


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def link_to(target: str) -> Callable[[Path], None]:
    """A symbolic link."""
    return lambda path: path.symlink_to(target)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
PAGE = "<!DOCTYPE html><html><head><title>Login</title></head><body>Please log in</body></html>\n"
STAND_INS: dict[str, Content] = {
    "empty": b"",
    "zeros": bytes(4096),
    "noise": random.Random(SEED).randbytes(4096),
    "text": "this is a text, not what you want\n" * 20,
    "lfs": LFS,
    "page": PAGE,
    "folder": folder,
    "pipe": pipe,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": link_to("nowhere/at/all"),
    "device": link_to("/dev/zero"),
    "nothing": link_to("/dev/null"),
}
BAD_PATHS = (
    "nowhere",
    "nowhere/below",
    "/dev/zero",
    "/dev/null",
    "x" * 5000,
    "a\nb",
    os.fsdecode(b"\xff\xfe"),
    "~nobody-x",
)


# --- spoiling bytes and values -----------------------------------------------------------------------------------


def spoilt_bytes(content: bytes, chance: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, bytes) of `count` damages: cut, flipped, overwritten, doubled, with a piece left out."""
    size = len(content)
    for number in range(count):
        kind = ("cut", "flipped", "overwritten", "removed", "inserted", "head")[number % 6]
        at = chance.randrange(size) if kind != "head" else chance.randrange(min(size, 400))
        length = chance.choice((1, 2, 8, 64, 1000))
        damaged = bytearray(content)
        if kind == "cut":
            del damaged[at:]
        elif kind in ("flipped", "head"):
            for place in [at, *(chance.randrange(min(size, 2 * at + 1)) for _ in range(chance.choice((0, 3, 20))))]:
                damaged[place] ^= 1 << chance.randrange(8)
        elif kind == "overwritten":
            damaged[at : at + length] = chance.choice((b"\xff", b"\0", b"{", b"\x80")) * length
        elif kind == "removed":
            del damaged[at : at + length]
        else:
            damaged[at:at] = chance.randbytes(length)
        yield f"{kind} {number} at {at}", bytes(damaged)


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.5, 1e-300, 1e308, 10**9, 2**31, 2**63, -(2**63), 10**30,
    "", "x", "词", "1", "-1", "nan", "../../x", "/etc/passwd", "x" * 5000, "a\nb", "\u2028", "\0",
    [], {}, [[]], [None], [1, 2], ["a"], {"a": 1}, {"": None}, [{}] * 3,
)  # fmt: skip


def spoilt_values(value: Any, chance: random.Random, count: int) -> Iterator[tuple[str, Any]]:
    """(the key concerned, the tree) of `count` damages at random places: other values, keys gone or renamed."""
    places = list(_places(value))
    for _ in range(count):
        path = chance.choice(places)
        tree = copy.deepcopy(value)
        above = tree
        for part in path[:-1]:
            above = above[part]
        last, kind = path[-1], chance.choice(("value",) * 4 + ("gone", "renamed", "wrapped"))
        if kind == "value":
            above[last] = copy.deepcopy(chance.choice(ODD_VALUES))
        elif kind == "gone":
            del above[last]
        elif kind == "renamed" and isinstance(above, dict):
            above[f"{last}_"] = above.pop(last)
        else:
            above[last] = [above[last]] if chance.random() < 0.5 else {"value": above[last]}
        key = next((part for part in reversed(path) if isinstance(part, str)), "")
        yield key, tree


def _places(value: Any, above: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*above, name)
        yield from _places(item, (*above, name))


DEEP = {
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "half": '{"a": [1, 2',
    "not an object": "[1, 2, 3]",
    "a word": '"word"',
    "null": "null",
    "empty": "",
    "NaN": '{"num_layers": NaN, "a": Infinity}',
    "long number": '{"num_layers": ' + "9" * 5000 + "}",
    "UTF-16": '{"num_layers": 2}'.encode("utf-16"),
    "GBK": '{"名": "值"}'.encode("gbk"),
    "zeros": bytes(100),
    "noise": random.Random(1).randbytes(300),
    "page": PAGE,
    "lfs": LFS,
    "python": "{'num_layers': 2, 'x': None}",
    "comment": '{"num_layers": 2, // two\n}',
    "twice": '{"num_layers": 2, "num_layers": "x"}',
    "surrogate": '{"\\ud800": "\\udfff"}',
}
