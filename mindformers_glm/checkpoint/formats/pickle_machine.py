"""A pickle reader that can build plain containers, numbers, text and tensor descriptions, and nothing else.

Python's own unpickler calls whatever a file names; here a name is looked up in a short table, and a name that is not
in it ends the reading. No import, no attribute access and no call ever depends on the file. Numbers in the file
choose no allocation: containers grow with the operations that were read, of which there is a largest number, and a
function in the table copies nothing that was built before and costs no more than its arguments are long.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Any

from mindformers_glm.errors import shorten

_COPIED = 4096  # bytes that are copied out of a mapped file
_MAX_DEPTH = 100_000
MAX_OPERATIONS = 1_000_000  # a tensor takes some thirty


class Refused(Exception):
    """The pickle asks for something outside the table; the message names it."""


class Name:
    """A class or function named by the pickle, with the pure function that stands for it (None: only a label)."""

    def __init__(self, name: str, build: Callable[..., Any] | None) -> None:
        self.name, self.build = name, build


class Holder:
    """Stands for an object that the pickle gives attributes to; `state` holds what it gives, and nobody acts on it."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None


_MARK = object()


class PickleMachine:
    """Runs one pickle. `names` maps "module attribute" to a function or to None; `persistent` resolves storages."""

    def __init__(
        self, data: bytes | mmap.mmap, names: Mapping[str, Callable[..., Any] | None], persistent: Callable[[Any], Any]
    ) -> None:
        self.data, self.names, self.persistent = data, names, persistent
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes; `position` is then after its end.

        Raises:
            Refused: an operation, class or function that is not allowed, or a damaged pickle.
        """
        try:
            for _ in range(MAX_OPERATIONS):
                code = self._take(1)
                if code == b".":
                    return self._pop()
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise Refused(f"pickle operation {code!r}")
                operation(self)
                if len(self.stack) > _MAX_DEPTH:
                    raise Refused("a stack of more than 100,000 objects")
            raise Refused(f"more than {MAX_OPERATIONS:,} operations")
        except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError, KeyError) as error:
            raise Refused(f"a damaged pickle (byte {self.position:,})") from error

    # bytes

    def _take(self, size: int) -> bytes:
        if size < 0 or self.position + size > len(self.data):
            raise Refused("a pickle that ends too early")
        self.position += size
        return self.data[self.position - size : self.position]

    def _view(self, size: int) -> bytes | memoryview:
        if not isinstance(self.data, mmap.mmap) or size < _COPIED:
            return self._take(size)
        if size < 0 or self.position + size > len(self.data):
            raise Refused("a pickle that ends too early")
        self.position += size
        return memoryview(self.data)[self.position - size : self.position]

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise Refused("a pickle that ends too early")
        return self._take(end + 1 - self.position)[:-1].decode()

    # stack

    def _pop(self) -> Any:
        return self.stack.pop()

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _to_mark(self) -> list[Any]:
        index = len(self.stack) - 1
        while self.stack[index] is not _MARK:
            index -= 1
            if index < 0:
                raise IndexError
        items = self.stack[index + 1 :]
        del self.stack[index:]
        return items

    # operations

    def _global(self, module: str, attribute: str) -> None:
        name = f"{module} {attribute}"
        if name not in self.names:
            raise Refused(f"the name {shorten(name)[1:-1].replace(' ', '.')}")
        self._push(Name(name, self.names[name]))

    def _stack_global(self) -> None:
        attribute, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refused("a name that is not text")
        self._global(module, attribute)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or function.build is None or not isinstance(arguments, tuple):
            raise Refused(f"a call of {getattr(function, 'name', type(function).__name__)!r}")
        self._push(function.build(*arguments))

    def _build(self) -> None:
        """Attributes of an object (torch puts `_metadata` on its table): kept by a Holder, else dropped; never set."""
        state = self._pop()
        if isinstance(self.stack[-1], Holder):
            self.stack[-1].state = state
        elif not isinstance(self.stack[-1], dict):
            raise Refused("attributes for an object that is no table")

    def _setitems(self, pairs: list[Any]) -> None:
        table = self.stack[-1]
        if not isinstance(table, dict) or len(pairs) % 2:
            raise Refused("items for an object that is no table")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise Refused(f"a table key of type {type(key).__name__}")
            table[key] = value

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("items for an object that is no list")
        self.stack[-1].extend(items)

    def _pop_pair(self) -> list[Any]:
        value, key = self._pop(), self._pop()
        return [key, value]

    def _tuple(self, count: int) -> None:
        items = self.stack[-count:]
        if len(items) != count or _MARK in items:
            raise IndexError
        del self.stack[-count:]
        self._push(tuple(items))

    def _store(self, key: int) -> None:
        self.memo[key] = self.stack[-1]


def _long(machine: PickleMachine, size: int) -> int:
    if size > 16:
        raise Refused("a number of more than 16 bytes")
    return int.from_bytes(machine._take(size), "little", signed=True)


def _text(form: str) -> Callable[[PickleMachine], None]:
    return lambda m: m._push(m._take(m._number(form)).decode())


def _raw(form: str) -> Callable[[PickleMachine], None]:
    """Bytes; those of a mapped file stay in it."""
    return lambda m: m._push(m._view(m._number(form)))


_OPERATIONS: dict[bytes, Callable[[PickleMachine], Any]] = {
    b"\x80": lambda m: m._take(1),  # PROTO
    b"\x95": lambda m: m._take(8),  # FRAME
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._pop(),
    b"1": lambda m: m._to_mark(),
    b"}": lambda m: m._push({}),
    b"]": lambda m: m._push([]),
    b")": lambda m: m._push(()),
    b"t": lambda m: m._push(tuple(m._to_mark())),
    b"l": lambda m: m._push(m._to_mark()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"s": lambda m: m._setitems(m._pop_pair()),
    b"u": lambda m: m._setitems(m._to_mark()),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._to_mark()),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"K": lambda m: m._push(m._number("<B")),
    b"M": lambda m: m._push(m._number("<H")),
    b"J": lambda m: m._push(m._number("<i")),
    b"\x8a": lambda m: m._push(_long(m, m._number("<B"))),
    b"\x8b": lambda m: m._push(_long(m, m._number("<i"))),
    b"G": lambda m: m._push(m._number(">d")),
    b"X": _text("<I"),
    b"\x8c": _text("<B"),
    b"\x8d": _text("<Q"),
    b"U": _raw("<B"),
    b"T": _raw("<i"),
    b"C": _raw("<B"),
    b"B": _raw("<I"),
    b"q": lambda m: m._store(m._number("<B")),
    b"r": lambda m: m._store(m._number("<I")),
    b"\x94": lambda m: m._store(len(m.memo)),
    b"h": lambda m: m._push(m.memo[m._number("<B")]),
    b"j": lambda m: m._push(m.memo[m._number("<I")]),
    b"c": lambda m: m._global(m._line(), m._line()),
    b"\x93": lambda m: m._stack_global(),
    b"R": lambda m: m._reduce(),
    b"\x81": lambda m: m._reduce(),  # NEWOBJ: the same rule, class and arguments
    b"b": lambda m: m._build(),
    b"Q": lambda m: m._push(m.persistent(m._pop())),
}
