"""Streamers as in transformers: `model.generate(..., streamer=TextStreamer(tokenizer))`."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.stream import TextStream

_END = object()


class TextStreamer:
    """Prints text as soon as it is final: `put(ids)` with the prompt first, then each new id, then `end()`.

    Incomplete characters are held back, and the pieces together are the decoded text. `decode_kwargs` are accepted as
    transformers takes them; only `skip_special_tokens` has an effect.
    """

    def __init__(
        self,
        tokenizer: GLMTokenizer,
        skip_prompt: bool = False,
        skip_special_tokens: bool = True,
        **decode_kwargs: Any,
    ) -> None:
        self.tokenizer, self.skip_prompt, self.skip_special_tokens = tokenizer, skip_prompt, skip_special_tokens
        self._stream = self._new()
        self._is_prompt = True

    def put(self, value: int | Iterable[int]) -> None:
        """Takes the ids of the prompt at first, then new ids."""
        ids = [value] if not hasattr(value, "__iter__") else list(value)
        is_prompt, self._is_prompt = self._is_prompt, False
        if is_prompt and self.skip_prompt:
            return
        text = "".join(self._stream.push(int(index)) for index in ids)
        if text:
            self.on_finalized_text(text)

    def end(self) -> None:
        """Prints what was held back; the next `put` begins another prompt."""
        self.on_finalized_text(self._stream.flush(), stream_end=True)
        self._stream, self._is_prompt = self._new(), True

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Prints new text. Override it to do something else with it."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _new(self) -> TextStream:
        return TextStream(self.tokenizer, skip_special_tokens=self.skip_special_tokens)


class TextIteratorStreamer(TextStreamer):
    """Iterates over new text while `model.generate` runs in another thread.

    Raises:
        queue.Empty: nothing came within `timeout` seconds, where one is given.
    """

    def __init__(
        self,
        tokenizer: GLMTokenizer,
        skip_prompt: bool = False,
        timeout: float | None = None,
        skip_special_tokens: bool = True,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, skip_special_tokens, **decode_kwargs)
        self.timeout = timeout
        self._texts: queue.Queue[Any] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Passes the text to the iterating thread."""
        if text:
            self._texts.put(text)
        if stream_end:
            self._texts.put(_END)

    def __iter__(self) -> Iterator[str]:
        while (text := self._texts.get(timeout=self.timeout)) is not _END:
            yield text


def stop_at(tokenizer: GLMTokenizer, texts: Iterable[str]) -> Callable[[list[int]], bool]:
    """A `stop` function for GenerationConfig: True once one of `texts` is in the reply, however ids divide it."""
    texts = [text for text in texts if text]
    reach = 4 * max((len(text) for text in texts), default=0) + 8  # a character has up to four ids

    def stop(new: list[int]) -> bool:
        tail = tokenizer.decode(new[-reach:], skip_special_tokens=True)
        return any(text in tail for text in texts)

    return stop
