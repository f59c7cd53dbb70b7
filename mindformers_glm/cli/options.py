"""Parts of command lines: a parser whose faults are one line, and readers of numbers with their ranges."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mindformers_glm.errors import cut_words
from mindformers_glm.log import log_once
from mindformers_glm.messages import say, told

if TYPE_CHECKING:
    from mindformers_glm.generation.engine import Engine

LARGEST = 2**31 - 1
_LOOKUP_TOKENS = 10
A_VALUE = re.compile(r"-(?!-)")  # argparse: a word with one minus is a value (-5, -5度), for options have two


class Parser(argparse.ArgumentParser):
    """A fault is one line on the standard error and exit status 2; the usage is what --help prints."""

    def __init__(self, **given: Any) -> None:
        given.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        given.setdefault("allow_abbrev", False)
        given["description"] = told(given.get("description") or "") or None
        given["epilog"] = told(given.get("epilog") or "") or None
        with_help = given.pop("add_help", True)
        super().__init__(add_help=False, **given)
        self._negative_number_matcher = A_VALUE
        self._positionals.title, self._optionals.title = say("positional arguments"), say("options")
        if with_help:
            self.add_argument("-h", "--help", action="help", help="show this help message and exit")

    def _add_action(self, action: Any) -> Any:
        """Options of this parser and of its groups pass here: their help is said in the language of this process."""
        if action.help and action.help is not argparse.SUPPRESS:
            action.help = told(action.help)
        return super()._add_action(action)

    def format_usage(self) -> str:
        """The usage line."""
        return self._said(super().format_usage())

    def format_help(self) -> str:
        """What --help prints."""
        return self._said(super().format_help())

    @staticmethod
    def _said(text: str) -> str:
        return say("usage: ") + text.removeprefix("usage: ")

    def error(self, message: str) -> NoReturn:
        """Prints the line and ends the program."""
        sys.stdout.flush()
        line = told(cut_words(message.removeprefix("argument ")))
        self.exit(2, say("error: {message}. See {program} --help", message=line, program=self.prog) + "\n")


class FormerName(argparse.Action):
    """The former spelling of the option `dest`: not in --help, and a line says the new one."""

    def __init__(self, option_strings: Sequence[str], dest: str, **given: Any) -> None:
        super().__init__(option_strings, dest, **{"default": argparse.SUPPRESS, "help": argparse.SUPPRESS, **given})

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Sets the option, and says its name."""
        print(say("{former} is called {name} now.", former=option, name=f"--{self.dest}"), file=sys.stderr, flush=True)
        setattr(namespace, self.dest, values)


def progress_bar(total: int, what: str) -> Callable[[], None]:
    """A bar of so many steps on a terminal: what is to be called after each. Nothing is shown elsewhere."""
    from tqdm import tqdm  # noqa: PLC0415

    bar = tqdm(total=total, desc=what, file=sys.stderr, disable=not sys.stderr.isatty())
    return lambda: bar.update() and None


def whole(least: int = 1, most: int = LARGEST) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`, for `type=` of an option."""

    def read(text: str) -> int:
        number = int(text) if _is_whole(text) else None
        if number is None or not least <= number <= most:
            between = f"from {least} to {most}" if most < LARGEST else f"of at least {least}, at most {most}"
            raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give a whole number {between}")
        return number

    return read


def number(least: float = 0.0, most: float = float("inf"), *, above: bool = False) -> Callable[[str], float]:
    """A reader of finite numbers from `least` (itself left out with `above`) to `most`, for `type=` of an option."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least < value if above else least <= value) or not value <= most or value == float("inf"):
            low = f"above {least:g}" if above else f"of at least {least:g}"
            high = "" if most == float("inf") else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"got {text[:80]!r}, give a finite number {low}{high}")
        return value

    return read


def _is_whole(text: str) -> bool:
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 20


def add_prompt_lookup(parser: argparse.ArgumentParser) -> None:
    """Adds the option of what talks with users: guesses of what is repeated (generation/lookup.py)."""
    parser.add_argument(
        "--prompt_lookup_num_tokens",
        type=whole(0, 64),
        help="tokens that may be guessed at once where an answer repeats what stands before; 0: none (10)",
    )


def lookup_tokens(chosen: argparse.Namespace) -> int:
    """How many tokens may be guessed at once: what was chosen, or 10."""
    asked: int | None = chosen.prompt_lookup_num_tokens
    return _LOOKUP_TOKENS if asked is None else asked


def tell_of_lookup(chosen: argparse.Namespace, engine: Engine) -> None:
    """Says so where guesses were asked for and the engine can check none."""
    from mindformers_glm.generation.lookup import NO_GUESSES  # noqa: PLC0415 - whoever has an engine has it

    if chosen.prompt_lookup_num_tokens and not engine.checks_guesses:
        log_once(f"--prompt_lookup_num_tokens has no effect: {NO_GUESSES}")
