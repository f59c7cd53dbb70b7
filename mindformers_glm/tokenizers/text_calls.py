"""Text -> ids, as callers of transformers' tokenizers expect it: one text or many, pairs, padding, arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from mindformers_glm.errors import ConfigError, kind_of
from mindformers_glm.tokenizers import encoding, snippets
from mindformers_glm.tokenizers.encoding import Encoding, Side, is_ids


class TextCalls:
    """`encode`, calling the tokenizer, and `pad`. The tokenizer below says its vocabulary, special tokens and sides."""

    vocabulary: Any
    encode_special_tokens: bool
    padding_side: Side
    truncation_side: Side
    gives_positions: bool
    _special_names: Any
    _commands: dict[str, int]

    if TYPE_CHECKING:

        @property
        def pad_token_id(self) -> int: ...  # noqa: D102

        @property
        def eos_token_id(self) -> int: ...  # noqa: D102

    def text_prefix(self) -> list[int]:
        """What `encode` puts before a text."""
        return []

    def encode(
        self,
        text: str | Sequence[int],
        text_pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        truncation: bool | str | None = None,
        **options: Any,
    ) -> list[int]:
        """Ids of a text: `[gMASK] sop text`, and with a pair `[gMASK] sop text pair eos`.

        `max_length` alone truncates, as MindFormers does; the special tokens count and are never cut. `options` are
        those of calling the tokenizer: with `return_tensors` the ids are an array (1, T).

        Raises:
            ConfigError: no text was given, no room for the special tokens, or an unknown truncation strategy.
        """
        if options:
            options |= {"add_special_tokens": add_special_tokens, "max_length": max_length, "truncation": truncation}
            return self(text, text_pair, **options).input_ids
        first = self._text_ids(text)
        second = None if text_pair is None else self._text_ids(text_pair)
        return self._assemble(first, second, add_special_tokens, max_length, truncation)

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_position_ids: bool | None = None,
        **published: Any,
    ) -> Encoding:
        """`input_ids` and `attention_mask` of one text, of several, or of pairs; rows as lists or arrays (B, T).

        A list of ids stands for the text that they are.

        Raises:
            ConfigError: no text was given, an option has an unknown value, or arrays were asked for rows of unequal
                length.
        """
        snippets.of_a_call(published, "padding, truncation, max_length, return_tensors, add_special_tokens and others")
        single = isinstance(text, str) or is_ids(text)
        if not single and (isinstance(text, (bytes, Mapping)) or not isinstance(text, Iterable)):
            raise _no_text(text)
        texts = [text] if single else list(text)
        pairs = self._pairs(texts, text_pair, single)
        rows = [
            self.encode(a, b, add_special_tokens=add_special_tokens, max_length=max_length, truncation=truncation)
            for a, b in pairs
        ]
        columns = {"input_ids": rows}
        if padding == "max_length" and max_length is None:
            raise ConfigError("max_length", None, "padding='max_length' needs a length.")
        return self._finish(
            columns,
            single and return_tensors is None,
            padding=padding,
            max_length=max_length,
            multiple=pad_to_multiple_of,
            side=padding_side or self.padding_side,
            return_tensors=return_tensors,
            attention_mask=return_attention_mask,
            position_ids=self.gives_positions if return_position_ids is None else return_position_ids,
        )

    def pad(
        self,
        encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: str | None = None,
    ) -> Encoding:
        """Rows of `input_ids` (and `labels`, `position_ids`) made equally long, with their attention mask."""
        rows = _columns(encoded)
        masks = rows.pop("attention_mask", None)
        return self._finish(
            rows,
            False,
            padding=padding,
            max_length=max_length,
            multiple=pad_to_multiple_of,
            side=padding_side or self.padding_side,
            return_tensors=return_tensors,
            attention_mask=True,
            position_ids=False,
            masks=masks,
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _text_ids(self, text: Any) -> list[int]:
        """Ids of a text alone; of words in a list; of ids themselves."""
        if isinstance(text, str):
            if not self.encode_special_tokens:
                return self.vocabulary.encode(text)
            parts = self._special_names.split(text)  # text and names in turn
            return [
                index
                for place, part in enumerate(parts)
                for index in ([self._commands[part]] if place % 2 else self.vocabulary.encode(part))
            ]
        if is_ids(text):
            return [int(index) for index in text]
        if isinstance(text, (list, tuple)) and all(isinstance(word, str) for word in text):
            return [index for word in text for index in self._text_ids(word)]
        raise _no_text(text)

    def _assemble(
        self,
        first: list[int],
        second: list[int] | None,
        add_special_tokens: bool,
        max_length: int | None,
        truncation: bool | str | None,
    ) -> list[int]:
        prefix = self.text_prefix() if add_special_tokens else []
        suffix = [self.eos_token_id] if add_special_tokens and second is not None else []
        if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, Integral)):
            raise ConfigError("max_length", max_length, "Give a whole number of ids, or leave it out.")
        if max_length is not None and truncation not in (False, "do_not_truncate"):
            room = max_length - len(prefix) - len(suffix)
            if room < 0:
                fix = f"The special tokens alone are {len(prefix) + len(suffix)}."
                raise ConfigError("max_length", max_length, fix)
            strategy = "longest_first" if truncation in (None, True) else truncation
            first, second = encoding.fit(first, second, room=room, side=self.truncation_side, strategy=strategy)
        return [*prefix, *first, *(second or []), *suffix]

    def _pairs(
        self, texts: list[Any], text_pair: str | Sequence[str] | None, single: bool
    ) -> list[tuple[str, str | None]]:
        if text_pair is None:
            pairs = (isinstance(item, (tuple, list)) and len(item) == 2 and not is_ids(item) for item in texts)
            return [tuple(item) if pair else (item, None) for item, pair in zip(texts, pairs, strict=True)]
        seconds: list[Any] = [text_pair] if single else list(text_pair)
        if len(seconds) != len(texts):
            raise ConfigError("text_pair", len(seconds), f"Give one second text for each of the {len(texts)} texts.")
        return list(zip(texts, seconds, strict=True))

    def _finish(
        self,
        columns: dict[str, list[list[int]]],
        single: bool,
        *,
        padding: bool | str,
        max_length: int | None,
        multiple: int | None,
        side: Side,
        return_tensors: str | None,
        attention_mask: bool,
        position_ids: bool,
        masks: list[list[int]] | None = None,
    ) -> Encoding:
        if attention_mask:
            columns["attention_mask"] = masks or [[1] * len(row) for row in columns["input_ids"]]
        if position_ids:
            columns["position_ids"] = [list(range(len(row))) for row in columns["input_ids"]]
        padded = encoding.pad_rows(
            columns, padding=padding, max_length=max_length, multiple=multiple, side=side, pad_id=self.pad_token_id
        )
        if single:
            return Encoding({name: rows[0] for name, rows in padded.items()})
        return Encoding(encoding.as_arrays(padded, return_tensors))


def _no_text(value: Any) -> ConfigError:
    hint = " (an empty cell of a table is read as NaN)" if isinstance(value, float) and value != value else ""
    return ConfigError("text", value, f"Expected text, or a list of texts, not {kind_of(value)}{hint}.")


def _columns(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Columns of rows, from one mapping of rows, one mapping of a row, or a list of such mappings."""
    if not isinstance(encoded, Mapping):
        encoded = {name: [item[name] for item in encoded] for name in encoded[0]}
    columns = {name: [list(map(int, row)) for row in _as_rows(rows)] for name, rows in encoded.items()}
    if "input_ids" not in columns:
        raise ConfigError("pad", sorted(columns), "Rows need `input_ids`.")
    return columns


def _as_rows(rows: Any) -> Any:
    return rows if len(rows) and hasattr(rows[0], "__len__") else [rows]
