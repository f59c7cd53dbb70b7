"""Which message of a catalogue an English line was made of, and what its values are."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from itertools import islice

_SENTENCES = re.compile(r"(?<=[.?!]) +(?=[A-Z])|(?<=;) +")
_DEPTH = 4
_MOST_WAYS = 60  # in which the values of one message are looked for
_FEWEST = 3  # letters of a message beside its values: with fewer it would be found everywhere
_ENDS = {".": "。", "?": "？", "!": "！", ";": "；"}


class _Pattern:
    """A message with values in it."""

    def __init__(self, text: str, translated: str) -> None:
        self.translated = translated
        self.parts = [(said, name) for said, name, _, _ in string.Formatter().parse(text)]
        self.literals = [said for said, _ in self.parts if said]
        self.weight = sum(map(len, self.literals))
        self.letters = sum(mark.isalpha() for mark in "".join(self.literals))

    def matches(self, line: str) -> Iterator[dict[str, str]]:
        """Every way in which a line can have been made of this message, as its values; none where it was not."""
        begin = 0
        for literal in self.literals:
            begin = line.find(literal, begin)
            if begin < 0:
                return
            begin += len(literal)
        if line.startswith(self.parts[0][0]):
            yield from self._rest(line, 0, 0)

    def _rest(self, line: str, part: int, at: int) -> Iterator[dict[str, str]]:
        """The ways of `line[at:]` from a part on."""
        if part == len(self.parts):
            if at == len(line):
                yield {}
            return
        literal, name = self.parts[part]
        if not line.startswith(literal, at):
            return
        at += len(literal)
        if name is None:
            yield from self._rest(line, part + 1, at)
            return
        following = self.parts[part + 1][0] if part + 1 < len(self.parts) else ""
        ends = [len(line)] if part + 1 == len(self.parts) else range(at, len(line) + 1)
        for end in ends:
            if line.startswith(following, end):
                for values in self._rest(line, part + 1, end):
                    yield {name: line[at:end], **values}


class Matcher:
    """The catalogue as a translator of finished lines."""

    def __init__(self, catalogue: Mapping[str, str]) -> None:
        self._exact = {text.strip(): translated.strip() for text, translated in catalogue.items() if "{" not in text}
        self._exact |= {text.replace("{{", "{"): said.replace("{{", "{") for text, said in self._exact.items()}
        patterns = [_Pattern(text.strip(), said.strip()) for text, said in catalogue.items() if "{" in text]
        telling = [pattern for pattern in patterns if pattern.letters >= _FEWEST]
        self._patterns = sorted(telling, key=lambda pattern: -pattern.weight)

    def told(self, line: str) -> str:
        """The translated line. Parts that no message matches stay as they are."""
        return self._told(line, 0)

    def _told(self, line: str, depth: int) -> str:
        core = line.strip()
        if not core or depth > _DEPTH:
            return line
        begin = line[: len(line) - len(line.lstrip())]
        end = line[len(line.rstrip()) :]
        said = self._core(core, depth)
        return line if said is None else begin + said + end

    def _core(self, core: str, depth: int) -> str | None:
        said = self._whole(core) or self._filled(core, depth, of_one_sentence=True)
        if said is not None:
            return said
        for way in (self._lines, self._sentences, self._ended, self._after_place, self._listed):
            said = way(core, depth)
            if said is not None:
                return said
        return self._filled(core, depth, of_one_sentence=False)

    def _whole(self, core: str) -> str | None:
        return self._exact.get(core)

    def _filled(self, core: str, depth: int, *, of_one_sentence: bool) -> str | None:
        best: tuple[int, str] | None = None
        for pattern in self._patterns:
            ways = [
                {name: (value, self._value(value, depth)) for name, value in values.items()}
                for values in islice(pattern.matches(core), _MOST_WAYS)
                if not of_one_sentence or not any(_SENTENCES.search(value) for value in values.values())
            ]
            if not ways:
                continue
            way = min(ways, key=_left_english)
            if best is None or _left_english(way) < best[0]:
                best = _left_english(way), self._put_in(pattern.translated, way)
            if best[0] == 0:
                break
        if best is None:
            return None
        return best[1][:-1] + "。" if core.endswith(".") and best[1].endswith(".") else best[1]

    @staticmethod
    def _put_in(translated: str, values: Mapping[str, tuple[str, str]]) -> str:
        """The text with its values; one that was translated and ends in a number keeps a space before the next word."""
        text = ""
        for literal, name, _, _ in string.Formatter().parse(translated):
            text += " " + literal if _touch(text, literal) else literal
            if name:
                english, value = values[name]
                text += " " + value if value != english and _touch(text, value) else value
        return text

    def _value(self, value: str, depth: int) -> str:
        said = self._told(value, depth + 1)
        return said.strip() if said != value and value.startswith(" ") else said

    def _lines(self, core: str, depth: int) -> str | None:
        return self._joined(core.split("\n"), "\n", depth)

    def _sentences(self, core: str, depth: int) -> str | None:
        return self._joined(_SENTENCES.split(core), "", depth)

    def _joined(self, pieces: list[str], between: str, depth: int) -> str | None:
        if len(pieces) < 2:
            return None
        said = [self._told(piece, depth + 1) for piece in pieces]
        if said == pieces:
            return None
        # a piece that stays English keeps the space before what follows it
        gaps = [between or (" " if one[-1:].isascii() else "") for one in said[:-1]]
        return "".join(piece + gap for piece, gap in zip(said, [*gaps, ""], strict=True))

    def _ended(self, core: str, depth: int) -> str | None:
        """A message without its full stop, or the other way round."""
        mark = core[-1]
        if mark in _ENDS and (said := self._told(core[:-1], depth + 1)) != core[:-1]:
            return said + _ENDS[mark]
        whole = self._exact.get(f"{core}.")
        return whole.removesuffix("。") if whole else None

    def _after_place(self, core: str, depth: int) -> str | None:
        """`place: what is wrong there`."""
        head, sign, rest = core.partition(": ")
        said = self._told(rest, depth + 1) if sign else rest
        return f"{self._told(head, depth + 1)}：{said}" if said != rest else None

    def _listed(self, core: str, depth: int) -> str | None:
        """`one, or other; third`."""
        for sign, mark in (("; ", "；"), (" and ", "，并且"), (", ", "，")):
            pieces = core.split(sign)
            said = [self._told(piece, depth + 2) for piece in pieces] if len(pieces) > 1 else pieces
            if len(pieces) > 1 and all(one != two for one, two in zip(pieces, said, strict=True)):
                return mark.join(said)
        return None


def _left_english(values: Mapping[str, tuple[str, str]]) -> int:
    """How much stays English; the first of the ways with the least is taken."""
    return sum(len(english.strip()) for english, value in values.values() if english == value)


def _touch(left: str, right: str) -> bool:
    """Whether a Latin letter or digit would stand beside a Chinese character."""
    one, two = left[-1:], right[:1]
    return (one.isascii() and one.isalnum() and two.isalpha() and not two.isascii()) or (
        one.isalpha() and not one.isascii() and two.isascii() and two.isalnum()
    )
