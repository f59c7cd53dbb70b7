"""From an exception to one line and an exit status."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from mindformers_glm.cli.report import report
from mindformers_glm.errors import ConfigError, TrainingStopped


def raising(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error, status, told",
    [
        (ConfigError("--lines", -1, "Give more."), 2, "--lines: got -1. Give more."),
        (TrainingStopped("stopped at step 3"), 1, "stopped at step 3"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.json"), 2, "a.json: the disk is full"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), 2, "may not grow so large"),
        (IsADirectoryError(errno.EISDIR, "", ".x.tmp", None, "folder"), 2, "folder: is a folder. Name a file."),
        (PermissionError(errno.EACCES, "", "locked"), 2, "locked: may not be read or written"),
        (FileNotFoundError(errno.ENOENT, "", "gone"), 2, "gone: there is no such file"),
        (OSError(errno.ENAMETOOLONG, "", "n" * 9), 2, "the name is too long"),
        (ModuleNotFoundError("No module named 'mindspore'", name="mindspore.nn"), 2, "mindspore: this package is not"),
    ],
)  # fmt: skip
def test_what_a_user_can_repair_is_one_line(error, status, told, capsys):
    assert report(raising(error)) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ") and told in said and said.count("\n") == 1


UNEXPECTED = (ValueError("a bug"), ModuleNotFoundError("x", name="mindformers_glm.x"), OSError(10**6, "unknown"))


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
def test_what_he_cannot_repair_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        report(raising(error))


def test_the_status_is_the_number_that_the_work_returns():
    assert report(lambda: None) == 0 and report(lambda: 1) == 1 and report(lambda: "text") == 0
    assert report(raising(KeyboardInterrupt())) == 130


HALF = """
import os, signal, sys

class Stop:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Stop())
from mindformers_glm.cli.report import report
sys.exit(report(lambda: __import__("mindspore")))
"""


@pytest.mark.parametrize("module", ["mindspore.context", "mindspore.train"])
def test_ctrl_c_while_mindspore_is_imported_is_one_line(module):
    done = subprocess.run([sys.executable, "-c", HALF, module], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (130, ["stopped by Ctrl-C"])
    assert "Traceback" not in done.stderr
