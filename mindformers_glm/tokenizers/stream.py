"""Text of ids as they come: no broken character, and together exactly the decoded whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mindformers_glm.tokenizers.glm import GLMTokenizer

_BROKEN = "\ufffd"
_LENGTHS = ((0xC2, 0xDF, 2), (0xE0, 0xEF, 3), (0xF0, 0xF4, 4))
_SECOND = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}  # narrower than 80..BF


class TextStream:
    """`push(id)` gives the text that is certain by now; `flush()` what is left at the end.

    All pieces joined equal `tokenizer.decode(ids, skip_special_tokens)`. Bytes of an unfinished character wait;
    bytes that can no longer become one are shown as U+FFFD, as decode shows them.
    """

    def __init__(self, tokenizer: GLMTokenizer, *, skip_special_tokens: bool = True) -> None:
        self._vocabulary = tokenizer.vocabulary
        self._show = tokenizer.prints_specials and not skip_special_tokens
        self._bytes = bytearray()
        self._begun = False  # some text is out, or the leading space was taken off: no space is dropped any more

    def push(self, index: int) -> str:
        """New text after one more id; often empty."""
        raw = self._vocabulary.bytes_of(index)
        if raw is not None:
            self._bytes += raw
            text = self._characters(last=False)
            self._begun = self._begun or bool(text)
            return text
        before = self._characters(last=True)
        self._begun = self._begun or bool(before)
        own = self._vocabulary.written(index, show_specials=self._show)
        if self._vocabulary.is_special(index):
            self._begun = self._begun or bool(own)
            return before + own
        own = own.replace("\u2581", " ")
        if not self._begun and own.startswith(" ") and self._vocabulary.leading_space != "kept":
            self._begun = self._vocabulary.leading_space == "one dropped" or len(own) > 1
            return before + own[1:]
        self._begun = self._begun or bool(own)
        return before + own

    def flush(self) -> str:
        """The rest: an unfinished character as U+FFFD."""
        return self._characters(last=True)

    def _characters(self, *, last: bool) -> str:
        out = []
        while self._bytes:
            length = _character(self._bytes)
            if length == 0 and not last:
                break
            taken = bytes(self._bytes[: max(length, 1)])
            del self._bytes[: len(taken)]
            out.append(taken.decode() if length > 0 else _BROKEN)
        return "".join(out)


def stream_text(tokenizer: GLMTokenizer, ids: Iterable[int], *, skip_special_tokens: bool = True) -> Iterator[str]:
    """Pieces of text, none empty, for ids as they come."""
    stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
    for index in ids:
        if text := stream.push(index):
            yield text
    if text := stream.flush():
        yield text


def _character(data: bytearray) -> int:
    """Bytes of the complete character that opens `data`; 0 when it may become one, -1 when it cannot."""
    first = data[0]
    if first < 0x80:
        return 1
    length = next((size for low, high, size in _LENGTHS if low <= first <= high), 0)
    if not length:
        return -1
    for place, byte in enumerate(data[1:length], 1):
        low, high = _SECOND.get(first, (0x80, 0xBF)) if place == 1 else (0x80, 0xBF)
        if not low <= byte <= high:
            return -1
    return length if len(data) >= length else 0
