"""What every tokenizer of the family shares: special tokens, ids -> text, saving; text -> ids is in text_calls.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, overload

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import unknown_key
from mindformers_glm.tokenizers import files, snippets
from mindformers_glm.tokenizers.calls import PublishedCalls
from mindformers_glm.tokenizers.encoding import Side, as_rows
from mindformers_glm.tokenizers.formats import FORMATS, chat_format_in
from mindformers_glm.tokenizers.formats import chat_format as rules_of
from mindformers_glm.tokenizers.formats.base import ChatFormat
from mindformers_glm.tokenizers.vocabulary import Vocabulary

GLM2_SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")


class Marks(NamedTuple):
    """What the special tokens that every tokenizer of transformers has are called."""

    bos_token: str | None
    eos_token: str | None
    end_token: str | None
    mask_token: str | None
    gmask_token: str | None
    pad_token: str | None
    unk_token: str | None


class GLMTokenizer(PublishedCalls):
    """Text <-> ids with the prefix `[gMASK] sop`, batches, padding, saving.

    `encode_special_tokens` lets the names of special tokens in a text stand for their ids, as the official ChatGLM3
    tokenizer does when it is told so; messages of a chat are never read that way.
    """

    chat_format = "rounds"  # see tokenizers/formats
    specials: tuple[str, ...] = GLM2_SPECIALS
    marks = Marks("<sop>", "<eop>", "</s>", "[MASK]", "[gMASK]", "<pad>", "<unk>")
    side: Side = "right"  # where padding goes
    bos_token: str
    eos_token: str
    end_token: str
    mask_token: str
    gmask_token: str
    pad_token: str
    unk_token: str
    prints_specials = False
    gives_positions = False

    def __init__(
        self,
        vocab_file: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        end_token: str | None = None,
        mask_token: str | None = None,
        gmask_token: str | None = None,
        pad_token: str | None = None,
        unk_token: str | None = None,
        padding_side: Side | None = None,
        truncation_side: Side = "right",
        special_start: int | None = None,
        encode_special_tokens: bool = False,
        chat_format: str | None = None,
    ) -> None:
        """A mark or side that is not given is that of this kind of tokenizer: `marks`, `side`."""
        self.vocabulary = self.read_vocabulary(vocab_file, special_start)
        self.vocab_file = str(self.vocabulary.path)
        named = Marks(bos_token, eos_token, end_token, mask_token, gmask_token, pad_token, unk_token)
        for name, own in self.marks._asdict().items():
            setattr(self, name, own if getattr(named, name) is None else getattr(named, name))
        padding_side = self.side if padding_side is None else padding_side
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
        return [self._piece(index) for index in self._text_ids(text)]

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """Piece or name of each id; `<id>` in angle brackets where an id has none."""
        if not isinstance(ids, Iterable):
            return self._piece(as_rows(ids)[0])
        return [self._piece(index) for index in as_rows(ids)]

    def _piece(self, index: Any) -> str:
        if 0 <= index < self.vocabulary.text_size:
            return self.vocabulary.pieces[index]
        return self.vocabulary.special_names.get(index, f"<{index}>")

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Id of each piece or special name; the unk id where there is none."""
        if isinstance(tokens, str):
            return self._id_of(tokens)
        if not isinstance(tokens, Iterable):
            raise ConfigError("tokens", tokens, "Expected the text of a piece, or a list of them.")
        return [self._id_of(token) for token in tokens]

    def _id_of(self, token: Any) -> int:
        if not isinstance(token, str):
            raise ConfigError("tokens", token, "Expected the text of a piece, or a list of them.")
        return self._commands[token] if token in self._commands else self.vocabulary.piece_id(token)

    # --- ids -> text ------------------------------------------------------------------------------------------

    @overload
    def decode(self, token_ids: list[int], skip_special_tokens: bool = False, **published: Any) -> str: ...

    @overload
    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **published: Any) -> Any: ...

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
            return [self._text_of(row, skip_special_tokens) for row in rows]
        return self._text_of(rows, skip_special_tokens)

    def _text_of(self, row: Any, skip_special_tokens: bool) -> str:
        show = self.prints_specials and not skip_special_tokens
        return self.vocabulary.decode(row, show_specials=show)

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False, **published: Any) -> list[str]:
        """The text of each row."""
        if isinstance(sequences, (str, bytes, Mapping)) or not isinstance(sequences, Iterable):
            raise ConfigError("sequences", sequences, "Expected rows of ids.")
        snippets.of_a_call(published, "skip_special_tokens")
        return [self._text_of(as_rows(row), skip_special_tokens) for row in sequences]

    # --- files ------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Constructor arguments that differ between tokenizers, as written to tokenizer_config.json."""
        names = (*Marks._fields, "padding_side", "truncation_side", "special_start")
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
