"""Runs one input in the forked child that is this process: limits first, then words, a script or Python.

`child.py SETTINGS`: a JSON file with words, code, whole and the limits.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
from typing import Any

MARK = "the first graph would be compiled here"


def limit(given: dict[str, int]) -> None:
    """Sets the limits: seconds of computing, bytes of a file, and bytes of data beyond what the parent held."""
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"] + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (given["file"], given["file"]))
    with open("/proc/self/status", encoding="ascii") as file:
        held = next(int(line.split()[1]) for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + given["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def stop_at_graphs() -> None:
    """Ends this process well where MindSpore would compile: an input was accepted that comes so far."""
    from mindspore.common.api import _CellGraphExecutor  # noqa: PLC0415

    def compiled(*_: Any, **__: Any) -> None:
        print(MARK, flush=True)
        sys.stderr.flush()
        os._exit(0)

    _CellGraphExecutor.compile = compiled


def call(code: str) -> None:
    """Python as a user writes it; a refusal is printed as a command would print it."""
    from mindformers_glm.errors import UserError  # noqa: PLC0415

    try:
        exec(compile(code, "<input>", "exec"), {"__name__": "__main__"})  # the test's own text
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) and "missing" not in str(error):
            raise
        print(
            f"error: {str(error).rpartition('.')[2]}. Give the arguments that are documented.".replace("TypeError", "")
        )
        sys.exit(2)


def main() -> None:
    """Does not return an exit status: the words do."""
    with open(sys.argv[1], encoding="utf-8") as file:
        given = json.load(file)
    limit(given["limits"])
    if not given["whole"]:
        stop_at_graphs()
    if given["code"]:
        sys.path[0] = os.getcwd()
        call(given["code"])
        return
    words = given["words"]
    if words[0].endswith(".py"):
        sys.path[0], sys.argv = os.path.dirname(words[0]), words
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.path[0], sys.argv = os.getcwd(), ["mindformers-glm", *words]
        runpy.run_module("mindformers_glm", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
