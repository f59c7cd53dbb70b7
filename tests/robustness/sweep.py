"""All inputs in forked children of processes that have imported MindSpore, and the count of what became of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import arguments  # noqa: E402
import bench  # noqa: E402
import command_lines  # noqa: E402
import data_rows  # noqa: E402
import forked  # noqa: E402
import json_beside  # noqa: E402
import tensors  # noqa: E402
import vocabularies  # noqa: E402
import yaml_files  # noqa: E402
from inputs import Input  # noqa: E402
from verdict import BAD, Done, Verdict, judge  # noqa: E402

FAMILIES = (command_lines, yaml_files, json_beside, tensors, vocabularies, data_rows, arguments)
LIMITS = {"seconds": 20, "file": 64 << 20, "memory": 1500 << 20}
PATIENCE = 90  # seconds on a clock, which a busy machine needs; what computes without end is ended by `seconds`
_HALF_MADE = (".tmp", ".part", ".ckpt", ".safetensors", ".bin", ".idx", ".mindir", ".unfinished")
_GROWS = ("output/", "log/", "rank_0/", "kernel_meta/")


class Result(NamedTuple):
    """An input and what it counts as."""

    given: Input
    verdict: Verdict


def every_input(folder: Path) -> list[Input]:
    """The inputs of all families, from good files in `folder`."""
    return [given for family in FAMILIES for given in family.inputs(folder)]


def run(inputs: Sequence[Input], *, workers: int = 2) -> list[Result]:
    """Each input in a child of its own, `workers` at a time."""
    if workers == 1:  # in this thread, whose process of imports may be there already
        return [_one(given) for given in inputs]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_one, inputs))


def counted(results: Iterable[Result]) -> str:
    """The counts and every bad result, for people."""
    results = list(results)
    counts = Counter(result.verdict.word for result in results)
    rows = [f"{word:17} {count}" for word, count in sorted(counts.items())]
    bad = [
        f"{r.verdict.word}: [{r.given.family}] {r.given.name}: {r.verdict.why}"
        for r in results
        if r.verdict.word in BAD
    ]
    return "\n".join([f"{len(results)} inputs", *rows, *bad])


def _one(given: Input) -> Result:
    with tempfile.TemporaryDirectory(prefix="robust") as place:
        folder, settings = Path(place) / "work", Path(place) / "settings.json"
        folder.mkdir()
        given.lay_out(folder)
        before = _files(folder)
        told = {"words": given.words, "code": given.code, "whole": given.whole, "limits": LIMITS}
        settings.write_text(json.dumps(told))
        environment = {**os.environ, "MINDFORMERS_GLM_DOWNLOAD": "0", "GLOG_v": "3", "LANG": "C.UTF-8", "TMPDIR": place}
        try:
            done = forked.run(
                [HERE / "child.py", settings], cwd=folder, env=environment, input=given.stdin, timeout=PATIENCE
            )
            status, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as over:
            status, out, err = None, over.stdout or "", over.stderr or ""
        lost = lost_files(before, _files(folder), given, refused=bool(status))
        return Result(given, judge(given, Done(status, out, err, tuple(lost))))


def _files(folder: Path) -> dict[str, str]:
    """Every file below the folder with what it holds; links and pipes with what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not path.is_dir():
            found[name] = "pipe"
    return found


def lost_files(before: dict[str, str], after: dict[str, str], given: Input, *, refused: bool) -> list[str]:
    """What was there and is not, or not as it was; and what a refused command left half-made."""
    kept = {name: held for name, held in before.items() if refused or not name.startswith(given.replaced or ("\0",))}
    lost = [f"{name} is gone or changed" for name, held in kept.items() if after.get(name) != held]
    if refused:
        new = [name for name in after if name not in before and not name.startswith(_GROWS)]
        lost += [f"{name} was left" for name in new if name.endswith(_HALF_MADE)]
    return lost


if __name__ == "__main__":  # sweep.py [PARTS OF A FAMILY AND NAME ...]: for looking at some of them
    with tempfile.TemporaryDirectory() as made:
        chosen = every_input(bench.build(Path(made)))
        chosen = [given for given in chosen if all(part in f"{given.family} {given.name}" for part in sys.argv[1:])]
        print(counted(run(chosen)))
