"""What a result counts as, and the rule that a message of a refusal keeps.

The rule: the standard error ends with one line that begins with `error: `, of at most 400 characters; where several
faults are told at once, one indented line of that length each. It names what was read (a file, a key, an option), says
in a sentence of its own what to do, and holds no text of Python or of C++.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from inputs import Input

CLEAR, ACCEPTED, UNCLEAR = "clear", "rightly accepted", "unclear"
WRONGLY, TRACEBACK, HANG, LOST = "wrongly accepted", "traceback", "hang", "lost file"
REFUSED_RIGHT = "wrongly refused"
BAD = (WRONGLY, REFUSED_RIGHT, UNCLEAR, TRACEBACK, HANG, LOST)
LONGEST = 400

_RAW = re.compile(
    r"Traceback|\b[A-Z]\w*(?:Error|Exception)\b|<class '|<\w[\w.]* object|object at 0x|NoneType|has no attribute"
    r"|subscriptable|codec can't|unhashable|\[Errno|C\+\+ Call Stack|site-packages|line \d+, in |not iterable"
    r"|positional argument|takes \d+ |list index|unsupported operand|not supported between|invalid literal"
    r"|could not convert|must be str|terminate called|std::|mindspore/ccsrc"
)
_VERBS = (
    "use give name choose check download repair set write see add remove delete copy keep put leave start merge make "
    "raise run install export convert read say save unpack take call train begin quote close shorten lower allow wait "
    "open free do bring repeat join fetch generate"
)
_ASKS = re.compile(
    rf"\b(?:{_VERBS.replace(' ', '|')})\b|did you mean|is it another|registered names|known (?:are|keys)|"
    r"must |needs |commands:"
    r"|expected|only .* (?:is|are) read|layers are numbered|this key|should be",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"error: |(?:check_hccl|merge_hccl|hccl_tools): ")  # these three run without the package


class Done(NamedTuple):
    """What became of an input; `status` None: it did not end. `lost` are files that are gone, changed or half-made."""

    status: int | None
    out: str
    err: str
    lost: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """One of the words above, and why where it is a bad one."""

    word: str
    why: str = ""


def judge(given: Input, done: Done) -> Verdict:
    """What a result counts as."""
    if done.status is None or done.status == -signal.SIGXCPU:
        return Verdict(HANG, f"after {done.err[-200:]!r}")
    if done.lost:
        return Verdict(LOST, ", ".join(done.lost))
    if done.status < 0 or "Traceback (most recent call last)" in done.out + done.err:
        return Verdict(TRACEBACK, f"status {done.status}: {done.err[-700:]}")
    if done.status == 0:
        return Verdict(WRONGLY, (done.out + done.err)[-300:]) if given.expected == "refused" else Verdict(ACCEPTED)
    said = message(done)
    fault = fault_of(said, given.names)
    if fault:
        return Verdict(UNCLEAR, f"{fault}: {said[:600]!r}")
    return Verdict(REFUSED_RIGHT, said) if given.expected == "accepted" else Verdict(CLEAR)


def message(done: Done) -> str:
    """The refusal: from the line with `error: ` on, or the faults that a command found and printed."""
    lines = [line for line in re.split(r"[\r\n]+", done.err) if line.strip()]
    start = next((number for number, line in enumerate(lines) if _BEGINS.match(line)), None)
    if start is not None:
        return "\n".join(lines[start:])
    faults = [line for line in done.out.splitlines() if line.startswith(("FAULT ", "problem: "))]
    return "\n".join(["error: faults are found; see them.", *(f"  {line}" for line in faults)]) if faults else done.err


def fault_of(said: str, names: tuple[str, ...]) -> str:
    """How a message breaks the rule; empty where it keeps it."""
    lines = said.splitlines()
    if not lines or not _BEGINS.match(lines[0]):
        return "no line that begins with `error: `"
    if len(lines) > 1 and not all(line.startswith("  ") for line in lines[1:]):
        return "more than one line"
    if any(len(line) > LONGEST for line in lines):
        return f"longer than {LONGEST} characters"
    if raw := _RAW.search(said):
        return f"raw text ({raw.group()})"
    if names and not any(name[:150] in said or repr(name)[1:-1][:60] in said for name in names):
        return f"names none of {names}"
    return "" if _ASKS.search(said) else "does not say what to do"
