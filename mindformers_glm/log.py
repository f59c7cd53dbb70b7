"""Logging as MindFormers users know it: console lines and `<output>/log/rank_R/{info,error}.log`."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_FILE_BYTES, _FILE_COUNT = 50 * 1024 * 1024, 5
_PACKAGE = Path(__file__).resolve().parent
logger = logging.getLogger("mindformers_glm")
FILE, SCREEN = "file", "screen"  # `extra={"audience": ...}` of a line: for the log files alone, or the console alone
_above: list[Callable[[str], None]] = []  # what writes lines above a progress bar, while there is one
_said: set[str] = set()


class _Formatter(logging.Formatter):
    """`<date time,ms> - mindformers[<file>:<line>] - LEVEL - message`, the file relative to the package."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "audience", None) == SCREEN:
            return record.getMessage()
        path = Path(record.pathname)
        place = path.relative_to(_PACKAGE).as_posix() if path.is_relative_to(_PACKAGE) else path.name
        prefix = f"{self.formatTime(record)} - mindformers[{place}:{record.lineno}] - {record.levelname} - "
        text = prefix + record.getMessage()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Console(logging.StreamHandler):
    """Writes to the standard output of the moment, so that a redirected or captured stream gets the lines."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "audience", None) == FILE:
            return
        if _above:
            _above[-1](self.format(record))
            return
        self.stream = sys.stdout
        super().emit(record)


def set_up_logging(output_dir: str | Path | None = None, *, rank: int = 0, console: bool = True) -> None:
    """Sends log lines to the console and, when `output_dir` is given, to `<output_dir>/log/rank_R/`."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    if console:
        _add(_Console(), logging.INFO)
    if output_dir is not None:
        from logging.handlers import RotatingFileHandler  # noqa: PLC0415 - it brings sockets, and most write no files

        folder = Path(output_dir) / "log" / f"rank_{rank}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, level in (("info.log", logging.INFO), ("error.log", logging.ERROR)):
            handler = RotatingFileHandler(
                folder / name, maxBytes=_FILE_BYTES, backupCount=_FILE_COUNT, encoding="utf-8", delay=False
            )
            handler.addFilter(lambda record: getattr(record, "audience", None) != SCREEN)
            _add(handler, level)


@contextlib.contextmanager
def console_above(write: Callable[[str], None]) -> Iterator[None]:
    """Lines for the console go through `write`, which keeps a progress bar below them."""
    _above.append(write)
    try:
        yield
    finally:
        _above.remove(write)


def log_once(message: str, *, level: int = logging.INFO) -> None:
    """Logs a message the first time it is given in this process."""
    if message not in _said:
        _said.add(message)
        logger.log(level, message, stacklevel=2)


def forget_told() -> None:
    """Lets `log_once` say everything again."""
    _said.clear()


def _add(handler: logging.Handler, level: int) -> None:
    handler.setLevel(level)
    handler.setFormatter(_Formatter())
    logger.addHandler(handler)
