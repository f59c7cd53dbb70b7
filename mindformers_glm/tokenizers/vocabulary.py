"""The sentencepiece file of a tokenizer, and the special tokens that follow its last piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.tokenizers import files

_SPACE = "\u2581"  # how sentencepiece writes a space inside a piece
_REPAIR = "Give the tokenizer.model of the checkpoint: --options processor.tokenizer.vocab_file=PATH or `vocab_file:`"


class Vocabulary:
    """Pieces of a sentencepiece file, then special tokens that no text can spell.

    Ids `0 .. text_size - 1` are pieces; special tokens follow from `special_start` in the order given.
    """

    def __init__(
        self, vocab_file: str | Path | None, specials: Sequence[str], *, special_start: int | None = None
    ) -> None:
        self.path = readable(vocab_file)
        self.processor = _load(self.path)
        self.text_size: int = self.processor.piece_size()
        start = self.text_size if special_start is None else special_start
        if start < self.text_size:
            fix = f"The file holds {self.text_size} pieces; special tokens can start there or later."
            raise ConfigError("tokenizer.special_start", special_start, fix)
        self.special_start = start
        self.special_ids = {name: start + index for index, name in enumerate(specials)}
        self.special_names = {number: name for name, number in self.special_ids.items()}
        self.size = start + len(specials)
        self.bos, self.eos, self.unk = _marks(self.processor, self.path)
        self.pieces: list[str] = self.processor.id_to_piece(list(range(self.text_size)))
        self._silent: dict[int, bool] = {}  # of those that were asked for
        written = [index for index, piece in enumerate(self.pieces) if piece.startswith("<0x")]
        self._bytes = {index: int(self.pieces[index][1:-1], 16) for index in written if self.processor.is_byte(index)}
        self.leading_space = self._leading_space()

    def encode(self, text: str) -> list[int]:
        """Piece ids of a text. Never a control piece or special token, whatever the text says."""
        return self.processor.encode(_encodable(text))

    def encode_many(self, texts: Iterable[str], *, threads: int = 1) -> list[list[int]]:
        """Piece ids of several texts."""
        return self.processor.encode([_encodable(text) for text in texts], num_threads=threads)

    def encode_with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        """(id, begin, end) of each piece; the last two count bytes of the text in UTF-8."""
        from sentencepiece import sentencepiece_pb2  # noqa: PLC0415 - brings protobuf, and only here

        raw = self.processor.encode(_encodable(text), out_type="serialized_proto")
        pieces = sentencepiece_pb2.SentencePieceText.FromString(raw).pieces  # type: ignore[attr-defined]
        return [(piece.id, piece.begin, piece.end) for piece in pieces]

    def decode(self, ids: Iterable[int], *, show_specials: bool = False) -> str:
        """Text of ids. Ids without text (control, padding, beyond the vocabulary, negative) give nothing."""
        return self.processor.decode_pieces([self.written(int(index), show_specials=show_specials) for index in ids])

    def written(self, index: int, *, show_specials: bool = False) -> str:
        """The piece of an id as sentencepiece writes it; empty for ids without text."""
        if 0 <= index < self.text_size:
            return "" if self._is_silent(index) else self.pieces[index]
        return self.special_names.get(index, "") if show_specials else ""

    def is_special(self, index: int) -> bool:
        """True for ids that are no piece of text: special tokens, control, padding, beyond the vocabulary."""
        return not 0 <= index < self.text_size or self._is_silent(index)

    def bytes_of(self, index: int) -> bytes | None:
        """The byte that a byte-fallback piece stands for, None for every other id."""
        byte = self._bytes.get(index)
        return None if byte is None else bytes([byte])

    def piece_id(self, piece: str) -> int:
        """The id of a piece; that of unk where there is none."""
        try:
            return self.processor.piece_to_id(piece)
        except TypeError:  # half of a character is no piece
            return self.processor.unk_id()

    def _leading_space(self) -> str:
        """What decode does with the spaces that open a text: "kept", "one dropped" or "all dropped"."""
        spaced = next((piece for piece in self.pieces if piece.startswith(_SPACE)), None)
        decode = self.processor.decode_pieces
        if spaced is None or decode([spaced]) == spaced.replace(_SPACE, " "):
            return "kept"
        return "one dropped" if decode([spaced, spaced]).count(" ") == 2 * spaced.count(_SPACE) - 1 else "all dropped"

    def _is_silent(self, index: int) -> bool:
        found, processor = self._silent.get(index), self.processor
        if found is None:
            found = processor.is_control(index) or processor.is_unknown(index) or processor.is_unused(index)
            self._silent[index] = found
        return found


def readable(vocab_file: str | Path | None) -> Path:
    """The vocabulary file, of itself or of the folder that holds it.

    Raises:
        ConfigError: none was named.
        DataError: it is not there, or empty.
    """
    if not vocab_file:
        raise ConfigError("tokenizer.vocab_file", vocab_file, f"A tokenizer needs its vocabulary. {_REPAIR}.")
    path = files.found(vocab_file)
    if path.is_dir():
        path = files.vocabulary_in(path) or path / files.VOCABULARY
    if not path.is_file():
        raise DataError(str(path), "there is no such tokenizer file", _REPAIR)
    if path.stat().st_size == 0:
        raise DataError(str(path), "the tokenizer file is empty", "Copy or download it again")
    return path


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes())
        _probe(processor)
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror or error})", "Repair its permissions") from error
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        fix = f"{_REPAIR}; a git-lfs pointer or an HTML page saved under this name is a common cause"
        raise DataError(str(path), "this is not a sentencepiece model, or a damaged one", fix) from error
    return processor


def _probe(processor: sentencepiece.SentencePieceProcessor) -> None:
    """Goes through every piece and a little text, so that damage shows on loading and not in a reply."""
    size = processor.piece_size()
    if size < 1:
        raise ValueError("no pieces")
    pieces = processor.id_to_piece(list(range(size)))
    if any(not 0 <= index < size for index in processor.encode("A 你好 0\n")):
        raise ValueError("ids beyond the pieces")
    processor.decode_pieces(pieces[: min(size, 1000)])
    if max(processor.bos_id(), processor.eos_id(), processor.unk_id(), processor.pad_id()) >= size:
        raise ValueError("marks beyond the pieces")


def _marks(processor: sentencepiece.SentencePieceProcessor, path: Path) -> tuple[int, int, int]:
    marks = processor.bos_id(), processor.eos_id(), processor.unk_id()
    if min(marks[1:]) < 0:
        raise DataError(str(path), "the vocabulary has no unk or no eos piece", "Train it with unk_id and eos_id set")
    return marks


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which UTF-8 cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
