"""Files that appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_glm import files as atomic
from mindformers_glm.files import atomic_write, claim, is_temporary, release, remove_abandoned, write_text


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_temporary(path)]


def test_writes_bytes_and_text(tmp_path):
    with atomic_write(tmp_path / "a" / "x.bin") as file:
        file.write(b"123")
    write_text(tmp_path / "y.txt", "你好\n")
    assert (tmp_path / "a" / "x.bin").read_bytes() == b"123"
    assert (tmp_path / "y.txt").read_text(encoding="utf-8") == "你好\n"
    assert temporaries(tmp_path) == []


def test_the_name_appears_at_the_end_only(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with atomic_write(path, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refusing_system_leaves_the_old_file_and_no_trace(tmp_path, monkeypatch, call):
    path = tmp_path / "x"
    path.write_text("old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, call, refuse)
    with pytest.raises(OSError, match="No space"), atomic_write(path, "w") as file:
        file.write("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_umask_decides_the_mode(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_modes_other_than_writing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode"), atomic_write(tmp_path / "x", "a"):
        pass


_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from mindformers_glm.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    if sys.argv[3] == "wait":
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_by_the_next_write(tmp_path, root):
    path = tmp_path / "x"
    done = subprocess.run([sys.executable, "-c", _KILLED, path, root, "kill"], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(temporaries(tmp_path)) == 1
    write_text(tmp_path / "y", "")
    assert sorted(os.listdir(tmp_path)) == ["y"]


def test_what_a_living_process_writes_is_not_swept(tmp_path, root):
    path = tmp_path / "x"
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, path, root, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "writing\n"
    write_text(tmp_path / "y", "")
    assert remove_abandoned(tmp_path) == []
    assert len(temporaries(tmp_path)) == 1
    child.communicate(timeout=60)
    assert len(remove_abandoned(tmp_path)) == 1


def test_files_of_others_are_never_swept(tmp_path):
    for name in (".hidden", "x.tmp", ".cache"):
        (tmp_path / name).write_text("")
    assert remove_abandoned(tmp_path) == []


def test_a_claim_is_exclusive_until_released(tmp_path):
    first = claim(tmp_path / "lock")
    assert first is not None
    assert claim(tmp_path / "lock") is None
    release(first, tmp_path / "lock")
    assert os.listdir(tmp_path) == []
    second = claim(tmp_path / "lock")
    assert second is not None
    release(second, tmp_path / "lock")
