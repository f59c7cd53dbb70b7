"""Errors that a user can act on: each is one line that says what was read, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mindformers_glm.messages import say, told

MOST_NAMED = 8  # names of a long list that a message tells
_ADDRESS = re.compile(r"(?: object)? at 0x[0-9a-f]+")


class UserError(Exception):
    """Something the user can repair. The command line prints it as one line and exits with `exit_status`."""

    exit_status = 2

    def __reduce__(self) -> tuple[Any, ...]:
        """How an error travels between processes: its message and what it carries, whatever its class takes."""
        return _revived, (type(self), self.args, vars(self))

    def line(self) -> str:
        """The message in the language of this process (messages.language); `str` of an error is English always."""
        return told(str(self))


class ConfigError(UserError, ValueError):
    """A configuration value is wrong. Carries the dotted key, what was read, and how to repair it."""

    def __init__(self, key: str, got: Any, fix: str) -> None:
        super().__init__(f"{key}: got {shorten(got)}. {fix}")
        self.key, self.got, self.fix = key, got, fix

    def line(self) -> str:
        """As the message, its repair translated."""
        return say("{key}: got {got}. {fix}", key=told(self.key), got=shorten(self.got), fix=told(self.fix))


class ConfigErrors(ConfigError):
    """Everything that is wrong with one configuration: one line, or a line for each fault below a first one."""

    def __init__(self, source: str, errors: Sequence[ConfigError]) -> None:
        lines = "\n".join(f"  {error}" for error in errors)
        text = f"{source}: {errors[0]}" if len(errors) == 1 else f"{source}: {len(errors)} faults\n{lines}"
        UserError.__init__(self, text)
        self.key, self.got, self.fix = errors[0].key, errors[0].got, errors[0].fix
        self.source, self.errors = source, list(errors)

    def line(self) -> str:
        """As the message, each fault translated."""
        if len(self.errors) == 1:
            return say("{source}: {fault}", source=self.source, fault=self.errors[0].line())
        lines = "\n".join(f"  {error.line()}" for error in self.errors)
        return say("{source}: {number} faults", source=self.source, number=len(self.errors)) + f"\n{lines}"


class _PlaceError(UserError, ValueError):
    """What is wrong at a place: a file, a line of it, a folder."""

    def __init__(self, place: str, fault: str, fix: str) -> None:
        super().__init__(f"{shown(place)}: {fault}. {fix}")
        self.place, self.fault, self.fix = place, fault, fix

    def line(self) -> str:
        """As the message, its parts translated."""
        return say("{place}: {fault}. {fix}", place=shown(self.place), fault=told(self.fault), fix=told(self.fix))


class DataError(_PlaceError):
    """A data file cannot be used. `place` names the file and, where there is one, the line."""


class CheckpointError(_PlaceError):
    """A checkpoint is missing, damaged, or does not fit the network."""


class DeviceError(UserError, RuntimeError):
    """The requested device, or an optional package for it, is not on this machine."""


class GenerationError(UserError, ValueError):
    """A prompt or a generation setting that the model cannot honour."""


class TrainingStopped(UserError, RuntimeError):
    """Training ended early: a loss that is not finite, or an interrupt. Says how to go on."""

    exit_status = 1


def _revived(kind: type[UserError], args: tuple[Any, ...], carried: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(carried)
    return error


def shown(name: Any, limit: int = 200) -> str:
    """A path or name on one line, as it is written: what does not print is escaped, what is too long is cut."""
    text = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in str(name)[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def cut_words(message: str, limit: int = 80) -> str:
    """A message whose words of more than `limit` characters are cut, as argparse repeats what was typed."""
    return re.sub(rf"(\S{{{limit}}})\S{{4,}}", r"\1...", message)


def shorten(value: Any, limit: int = 120) -> str:
    """The repr of a value on one line, cut to `limit` characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    text = _ADDRESS.sub("", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_of(value: Any) -> str:
    """What a value is, for a message: its type; null where a file says null."""
    return "null" if value is None else type(value).__name__


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The known name that is most like another, for a hint; nothing where none is like it."""
    from difflib import get_close_matches  # noqa: PLC0415 - for a mistake alone

    return get_close_matches(name, list(known), n=1, cutoff=cutoff)


def listed(names: Sequence[str], limit: int = 6) -> str:
    """Names for a message, the first few and a count of the rest; a name longer than 200 characters is cut."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if len(name) <= 200 else name[:197] + "..." for name in names[:limit]) + rest
