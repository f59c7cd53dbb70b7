"""What the tokenizers of both generations share: text <-> ids, batches, padding, saving."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError, kind_of
from mindformers_glm.registry import unknown_key
from mindformers_glm.tokenizers import encoding, files, snippets
from mindformers_glm.tokenizers.calls import PublishedCalls
from mindformers_glm.tokenizers.encoding import Encoding, Side, as_rows, is_ids
from mindformers_glm.tokenizers.formats import FORMATS
from mindformers_glm.tokenizers.formats import chat_format as rules_of
from mindformers_glm.tokenizers.formats.base import ChatFormat
from mindformers_glm.tokenizers.recognise import chat_format_in
from mindformers_glm.tokenizers.vocabulary import Vocabulary

GLM2_SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")


class GLMTokenizer(PublishedCalls):
    """What both generations share: text <-> ids with the prefix `[gMASK] sop`, batches, padding, saving.

    `encode_special_tokens` lets the names of special tokens in a text stand for their ids, as the official ChatGLM3
    tokenizer does when it is told so; messages of a chat are never read that way.
    """

    chat_format = "rounds"  # see tokenizers/formats
    specials: tuple[str, ...] = GLM2_SPECIALS
    prints_specials = False
    gives_positions = False

    def __init__(
        self,
        vocab_file: str | None = None,
        bos_token: str = "<sop>",
        eos_token: str = "<eop>",
        end_token: str = "</s>",
        mask_token: str = "[MASK]",
        gmask_token: str = "[gMASK]",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        padding_side: Side = "right",
        truncation_side: Side = "right",
        special_start: int | None = None,
        encode_special_tokens: bool = False,
        chat_format: str | None = None,
    ) -> None:
        self.vocabulary = self.read_vocabulary(vocab_file, special_start)
        self.vocab_file = str(self.vocabulary.path)
        self.bos_token, self.eos_token, self.end_token = bos_token, eos_token, end_token
        self.mask_token, self.gmask_token, self.pad_token, self.unk_token = (
            mask_token,
            gmask_token,
            pad_token,
            unk_token,
        )
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("left", "right"):
                raise ConfigError(f"tokenizer.{name}", side, "Use 'left' or 'right'.")
        self.padding_side, self.truncation_side = padding_side, truncation_side
        self.special_start, self.encode_special_tokens = special_start, encode_special_tokens
        if chat_format is not None:
            if chat_format not in FORMATS:
                raise ConfigError("tokenizer.chat_format", chat_format, f"Use one of {', '.join(FORMATS)}.")
            self.chat_format = chat_format
        self._commands = self._command_table()
        self._special_names = re.compile("(" + "|".join(map(re.escape, self.specials)) + ")")

    def read_vocabulary(self, vocab_file: str | None, special_start: int | None) -> Any:
        """The pieces of a file, followed by the special tokens of this kind."""
        return Vocabulary(vocab_file, self.specials, special_start=special_start)

    # --- vocabulary -------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Ids that mean something: pieces and special tokens. The model's vocabulary is padded beyond it."""
        return self.vocabulary.size

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def pad_token_id(self) -> int:
        """The unk piece, 0: the official vocabulary has no piece for padding."""
        return self.vocabulary.unk

    @property
    def unk_token_id(self) -> int:
        """The unk piece, 0."""
        return self.vocabulary.unk

    @property
    def eos_token_id(self) -> int:
        """The piece that ends a text, 2 (`</s>`), whatever `eos_token` is called."""
        return self.vocabulary.eos

    end_token_id = eos_token_id

    @property
    def bos_token_id(self) -> int:
        """Id of `bos_token`: `sop` unless another name was given."""
        return self.get_command(self.bos_token)

    @property
    def mask_token_id(self) -> int:
        """Id of `mask_token`."""
        return self.get_command(self.mask_token)

    @property
    def gmask_token_id(self) -> int:
        """Id of `gmask_token`."""
        return self.get_command(self.gmask_token)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids after which a reply is over, in the chat format of this model."""
        return self.rules.stop_ids

    @property
    def rules(self) -> ChatFormat:
        """The chat format of this model: how messages are written and replies read."""
        return rules_of(self.chat_format, self)

    @property
    def all_special_ids(self) -> list[int]:
        """Every id that text cannot produce."""
        marks = {self.vocabulary.unk, self.vocabulary.bos, self.vocabulary.eos} - {-1}
        return sorted(marks | set(self.vocabulary.special_names))

    def get_command(self, token: str) -> int:
        """Id of a special token by its name, such as "[gMASK]", "sop", "<eos>" or "<|user|>".

        Raises:
            ConfigError: this tokenizer has no special token of the name.
        """
        if token not in self._commands:
            raise ConfigError(
                "tokenizer", token, f"No special token has this name. Known: {', '.join(self._commands)}."
            )
        return self._commands[token]

    def get_prefix_tokens(self) -> list[int]:
        """`[gMASK] sop`, which opens every text."""
        return [self.vocabulary.special_ids["[gMASK]"], self.vocabulary.special_ids["sop"]]

    def text_prefix(self) -> list[int]:
        """What `encode` puts before a text."""
        return self.get_prefix_tokens()

    def get_vocab(self) -> dict[str, int]:
        """Piece -> id, special tokens included."""
        return {**{piece: index for index, piece in enumerate(self.vocabulary.pieces)}, **self.vocabulary.special_ids}

    def tokenize(self, text: str) -> list[str]:
        """Pieces of a text, as sentencepiece writes them."""
        return self.convert_ids_to_tokens(self._text_ids(text))

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """Piece or name of each id; `<id>` in angle brackets where an id has none."""
        if not isinstance(ids, Iterable):
            index = as_rows(ids)[0]
            if 0 <= index < self.vocabulary.text_size:
                return self.vocabulary.pieces[index]
            return self.vocabulary.special_names.get(index, f"<{index}>")
        return [self.convert_ids_to_tokens(index) for index in as_rows(ids)]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Id of each piece or special name; the unk id where there is none."""
        if isinstance(tokens, str):
            if tokens in self._commands:
                return self._commands[tokens]
            return self.vocabulary.piece_id(tokens)
        if not isinstance(tokens, Iterable):
            raise ConfigError("tokens", tokens, "Expected the text of a piece, or a list of them.")
        return [self.convert_tokens_to_ids(token) for token in tokens]

    # --- text -> ids ------------------------------------------------------------------------------------------

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

    # --- ids -> text ------------------------------------------------------------------------------------------

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **published: Any) -> str | list[str]:
        """Text of a row of ids (of one id, or a list of texts for several rows). Any integer is accepted.

        ChatGLM2 never writes special tokens; ChatGLM3 writes them by name unless `skip_special_tokens`.
        Ids beyond the vocabulary, which a padded model can produce, have no text.

        Raises:
            ConfigError: something else than ids was given.
        """
        snippets.of_a_call(published, "skip_special_tokens")
        rows = as_rows(token_ids)
        if rows and isinstance(rows[0], list):
            return [self.decode(row, skip_special_tokens) for row in rows]
        show = self.prints_specials and not skip_special_tokens
        return self.vocabulary.decode(rows, show_specials=show)

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False, **published: Any) -> list[str]:
        """The text of each row."""
        if isinstance(sequences, (str, bytes, Mapping)) or not isinstance(sequences, Iterable):
            raise ConfigError("sequences", sequences, "Expected rows of ids.")
        return [self.decode(row, skip_special_tokens, **published) for row in sequences]

    # --- files ------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Constructor arguments that differ between tokenizers, as written to tokenizer_config.json."""
        names = ("bos_token", "eos_token", "end_token", "mask_token", "gmask_token", "pad_token", "unk_token")
        names += ("padding_side", "truncation_side", "special_start")
        told: dict[str, Any] = {"encode_special_tokens": True} if self.encode_special_tokens else {}
        if self.chat_format != type(self).chat_format:
            told["chat_format"] = self.chat_format
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None} | told

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Writes tokenizer.model and tokenizer_config.json; returns their paths."""
        config = {"tokenizer_class": type(self).__name__, **self.settings()}
        return files.save(Path(save_directory), self.vocabulary.path, config)

    def save_vocabulary(self, save_directory: str | Path) -> tuple[str, ...]:
        """Writes tokenizer.model alone; returns its path."""
        return files.save(Path(save_directory), self.vocabulary.path, None)

    @classmethod
    def from_pretrained(cls, path: str | Path, **changes: Any) -> GLMTokenizer:
        """The tokenizer of a directory with tokenizer.model (Hugging Face's or ours), or of that file.

        `changes` are arguments of the class; those of published snippets that mean nothing here are logged once.

        Raises:
            DataError: no vocabulary there, or a configuration that is not JSON.
        """
        changes = snippets.of_loading(changes)
        vocab_file, config = files.load(files.place(path, changes.pop("subfolder", "")))
        unknown = set(changes) - set(inspect.signature(cls.__init__).parameters)
        if unknown:
            name = sorted(unknown)[0]
            raise unknown_key(f"tokenizer.{name}", changes[name], inspect.signature(cls).parameters)
        known = {name: value for name, value in config.items() if name in _SAVED and isinstance(value, _SAVED[name])}
        if "chat_format" not in known:
            told = chat_format_in(vocab_file.parent, byte_pairs=files.kind(vocab_file) != "sentencepiece")
            known |= {} if told is None else {"chat_format": told}
        return cls(str(vocab_file), **{**known, **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_file!r}, vocab_size={self.vocab_size})"

    # --- inside -----------------------------------------------------------------------------------------------

    def _command_table(self) -> dict[str, int]:
        marks = self.vocabulary
        table = {"<unk>": marks.unk, "<pad>": marks.unk, "<bos>": marks.bos, "<eos>": marks.eos}
        table |= marks.special_ids
        table |= {"<sop>": table["sop"], "<eop>": table["eop"], "</s>": marks.eos, "<s>": marks.bos}
        named = {self.pad_token: marks.unk, self.unk_token: marks.unk, self.end_token: marks.eos}
        return {**named, **table}

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
            return as_rows(text)
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
                fix = f"The special tokens alone take {len(prefix) + len(suffix)} places."
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
        seconds = [text_pair] if single else list(text_pair)
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


_SAVED = {
    **dict.fromkeys(
        ("bos_token", "eos_token", "end_token", "mask_token", "gmask_token", "pad_token", "unk_token"), str
    ),
    "padding_side": str,
    "truncation_side": str,
    "special_start": int,
    "encode_special_tokens": bool,
    "chat_format": str,
}


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
