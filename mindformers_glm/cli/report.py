"""From what a command raises to one line and an exit status."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from mindformers_glm.errors import UserError, shown
from mindformers_glm.messages import say, told
from mindformers_glm.signals import terminated_as_interrupted

INTERRUPTED = 130
_CURES = {
    errno.EACCES: "may not be read or written. Choose another place, or change its permissions.",
    errno.EPERM: "may not be read or written. Choose another place, or change its permissions.",
    errno.EROFS: "lies on a disk that cannot be written. Choose another place.",
    errno.ENOSPC: "the disk is full. Make room, or choose another disk.",
    errno.EDQUOT: "the quota of this disk is used up. Make room, or choose another disk.",
    errno.EFBIG: "it may not grow so large here (a limit of the shell or of the disk). Raise it, or write less.",
    errno.EISDIR: "is a folder. Name a file.",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another place.",
    errno.EEXIST: "is there already, and is no folder. Choose another place.",
    errno.ENOENT: "there is no such file or folder. Check the path.",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
    errno.ELOOP: "the links of this path go in a circle. Choose another place.",
    errno.ENOTEMPTY: "is a folder with something in it. Choose another place.",
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n).",
    errno.EIO: "the disk reports an error. Check it.",
}


def report(work: Callable[[], Any]) -> int:
    """Exit status of `work`: the number that it returns, else 0; 130 after Ctrl-C.

    What a user can repair, faults of files and disks among it, is printed as one line, without a traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # names that are no text are printed escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminated_as_interrupted():
            outcome = _flushed(work)
    except UserError as error:
        return _refused(error.line(), error.exit_status)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _CURES:
            raise
        place = error.filename2 or error.filename or "a file"
        return _refused(told(f"{shown(place)}: {_CURES[error.errno]}"), UserError.exit_status)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "mindformers_glm"):
            raise
        cure = f"Install it (pip install {package}), or use the Python of .venv: `. .venv/bin/activate`."
        line = f"{package}: this package is not installed for {sys.executable}. {cure}"
        return _refused(told(line), UserError.exit_status)
    except KeyboardInterrupt:
        print(say("stopped by Ctrl-C"), file=sys.stderr)
        _end_if_half_imported()
        return INTERRUPTED
    return outcome if type(outcome) is int else 0


def _end_if_half_imported() -> None:
    """Ends a process whose import of MindSpore was interrupted, without what MindSpore does at the end of one: of a
    half of itself it makes tracebacks and SIGABRT. Nothing of ours is open: whatever imports it has been left.
    """
    if "mindspore" not in sys.modules and any(name.startswith("mindspore.") for name in sys.modules):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(INTERRUPTED)


def _flushed(work: Callable[[], Any]) -> Any:
    """The outcome of `work`, once all that it printed has left: here a reader that has gone can still be handled."""
    try:
        outcome = work()
    except SystemExit:  # as after --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return outcome


def _refused(line: str, status: int) -> int:
    sys.stdout.flush()
    print(say("error: {line}", line=line), file=sys.stderr)
    return status
