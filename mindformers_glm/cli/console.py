"""`mindformers-glm COMMAND ...` and `python -m mindformers_glm COMMAND ...`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mindformers_glm.errors import nearest
from mindformers_glm.messages import say, told
from mindformers_glm.requirements import unmet
from mindformers_glm.version import __version__

PROGRAM = "mindformers-glm"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of one command: 0 done, 2 something the user can repair."""
    fault = unmet()
    if fault:
        print(say("error: {line}", line=told(fault)), file=sys.stderr)
        return 2
    from mindformers_glm.cli.commands import COMMANDS  # noqa: PLC0415 - an unfit Python is told first
    from mindformers_glm.pydantic_start import leave_out_plugins  # noqa: PLC0415

    leave_out_plugins()
    if "_ARGCOMPLETE" in os.environ:
        complete()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        return _tell(usage()) or (0 if words else 2)
    if words[0] in ("-V", "--version"):
        return _tell(f"{PROGRAM} {__version__}")
    if words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        hint = (
            f"Did you mean {near[0]}?"
            if near
            else f"{PROGRAM} --help tells the commands: {', '.join(list(COMMANDS)[:6])} and more."
        )
        line = f"{words[0][:80]!r} is no command of {PROGRAM}. {hint}"
        print(say("error: {line}", line=told(line)), file=sys.stderr)
        return 2
    return call(words[0], words[1:])


def call(name: str, words: Sequence[str]) -> int:
    """Runs one command; what its parser prints carries its name."""
    from mindformers_glm.cli.commands import COMMANDS  # noqa: PLC0415
    from mindformers_glm.cli.report import report  # noqa: PLC0415

    sys.argv[0] = f"{PROGRAM} {name}" if sys.argv[0].endswith((PROGRAM, "__main__.py")) else sys.argv[0]
    return report(lambda: COMMANDS[name].load()(list(words)))


def _tell(text: str) -> int:
    from mindformers_glm.cli.report import report  # noqa: PLC0415

    return report(lambda: print(text))


def usage() -> str:
    """What --help prints."""
    from mindformers_glm.cli.commands import COMMANDS  # noqa: PLC0415

    width = max(map(len, COMMANDS))
    return say(
        "usage: {program} COMMAND ...\n\nFine-tune, evaluate and deploy the GLM family on MindSpore.\n\n"
        "commands ({program} COMMAND --help tells their options):\n{rows}\n\n"
        "  --version  the version\n"
        'completion: eval "$(register-python-argcomplete {program})"  (pip install argcomplete)',
        program=PROGRAM,
        rows="\n".join(f"  {name:{width}}  {told(command.help)}" for name, command in COMMANDS.items()),
    )


def complete() -> None:
    """Answers a shell that asks for completions, through argcomplete; returns where it is not installed."""
    try:
        import argcomplete  # noqa: PLC0415 - optional
    except ImportError:
        return
    argcomplete.autocomplete(completion_parser(os.environ.get("COMP_LINE", "").split()[1:2]))


def completion_parser(chosen: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows every command, and the options of the chosen one only: the others are not imported."""
    from mindformers_glm.cli.commands import COMMANDS  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        options = command.parser() if name in chosen else None
        parents = [options] if options else []
        commands.add_parser(name, help=command.help, parents=parents, conflict_handler="resolve")
    return parser


if __name__ == "__main__":
    sys.exit(main())
