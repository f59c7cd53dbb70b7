"""Ctrl-C with a handler in place that ends the process, as MindSpore's does: blocked, looked for, allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mindformers_glm

MODULE = Path(mindformers_glm.__file__).parent / "serving" / "interrupt.py"
PROGRAM = """
import os, runpy, signal, threading
names = runpy.run_path({module!r})
names["hold"]()
other = threading.Thread(target=threading.Event().wait, daemon=True)  # inherits what is blocked
other.start()
signal.signal(signal.SIGINT, signal.SIG_DFL)                          # ends the process when it sees the signal
seen = threading.Semaphore(0)
with names["watched"](seen.release):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        seen.acquire()
os.kill(os.getpid(), signal.SIGINT)                                   # kept until somebody asks
try:
    with names["allowed"]():
        signal.pause()
except KeyboardInterrupt:
    print("raised")
os.kill(os.getpid(), signal.SIGINT)                                   # blocked again
print("alive")
os._exit(0)
"""


def test_ctrl_c_is_blocked_looked_for_and_allowed():
    command = [sys.executable, "-c", PROGRAM.format(module=str(MODULE))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["raised", "alive"]), done.stderr
