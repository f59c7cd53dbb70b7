"""KeyWordGenDataset: prompt and answer as one row of ids with shifted labels, arrays as MindFormers makes them.

The two label conventions, for a prompt p of n ids and an answer a of m:

    ids            p1 .. pn  a1 .. am  eos  0 ..
    labels "1.0"   (n-1) x -100, a1 .. am, eos, -100 ..    every answer token is learned
    labels "0.8"   n x -100, a2 .. am, eos, -100 ..        the first answer token never is: the fault of 0.8, kept
                                                          to reproduce its figures
"""

from __future__ import annotations

from typing import Any, Literal

from mindformers_glm.data.batch import Example
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.data.loaders import Pair, Rounds
from mindformers_glm.data.order import Order
from mindformers_glm.data.section import built_loader, built_tokenizer, require, require_rows, takes_section
from mindformers_glm.errors import ConfigError
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import logger

_REFUSED = {1: "Version 1 is ChatGLM-1, another model with its own masks. Use 2 for ChatGLM2, 3 for ChatGLM3."}


@takes_section
class KeyWordGenDataset(TokenDataset):
    """Rows (B, max_source_length + max_target_length + 1) in the train phase, ids and labels alike.

    In the eval phase `input_ids` are prompts (B, max_source_length) and `labels` reference answers
    (B, max_target_length), both padded with 0. Phase and version come from the data loader: version 2 wraps the
    prompt as "[Round 1] ..." (ChatGLM2), version 3 leaves it as it is (ChatGLM3).

    An answer longer than `max_target_length` is cut and still closed with eos, as MindFormers does;
    `eos_after_truncation: False` leaves a cut answer open, so that the model does not learn to stop there.
    Earlier rounds of a row (`history`, version 2) stand before the prompt, as in chat. They may take the room that the
    answer leaves; beyond that the oldest go.
    A prompt longer than `max_source_length` loses its end, and with it the "答：" that closes the template, as in
    MindFormers; `keep_template: True` shortens the text inside the template instead.
    In the eval phase MindFormers cuts prompts and answers by characters before it cuts tokens, so that prompts that
    would fit lose their end: `cut_by: "characters"`, the default of this class, gives its arrays; `cut_by: "tokens"`,
    what a run takes (build_dataset), cuts nothing that fits.

    `packing` puts several rows into one while training, each attending to itself alone; see packing.py.

    Source: arrays of mindformers r0.8 and 1.0.2.
    """

    in_a_run = {"cut_by": "tokens"}  # what a configuration that does not name it gets

    def __init__(
        self,
        data_loader: dict | Any = None,
        tokenizer: dict | Any = None,
        max_source_length: int = 64,
        max_target_length: int = 128,
        ignore_pad_token_for_loss: bool = True,
        label_convention: Literal["1.0", "0.8"] | float = "1.0",  # YAML reads a bare 0.8 as a number
        keep_template: bool = False,
        eos_after_truncation: bool = True,
        cut_by: Literal["characters", "tokens"] = "characters",
        packing: Literal["neat", "sequential"] | None = None,
        batch_size: int = 8,
        drop_remainder: bool = True,
        repeat: int = 1,
        seed: int | None = 0,
        rank: int = 0,
        rank_size: int = 1,
        prefetch_size: int = 2,
    ) -> None:
        self.loader = loader = built_loader(data_loader, "data_loader")
        require_rows(loader, "pairs or conversations", self)
        self.rows = loader.rows if loader.encoded else [_pair(row) for row in loader.rows]
        self.cut_by, self.packing = cut_by, packing
        require(cut_by in ("characters", "tokens"), "cut_by", cut_by, "Use tokens or characters.")
        self.phase, self.counts_labels = loader.phase, loader.phase == "train"
        self.source, self.target = max_source_length, max_target_length
        self.ignore_pad, self.convention = ignore_pad_token_for_loss, str(label_convention)
        self._warned = self._warned_of_rounds = False
        self.keep_template, self.eos_after_truncation = keep_template, eos_after_truncation
        require(self.convention in ("1.0", "0.8"), "label_convention", label_convention, "Use '1.0' or '0.8'.")
        require(max_source_length > 2, "max_source_length", max_source_length, "Use 3 or more: two go to [gMASK] sop.")
        require(max_target_length > 2, "max_target_length", max_target_length, "Use 3 or more.")
        self.tokenizer: Any = None if loader.encoded else built_tokenizer(tokenizer, "tokenizer")
        if not loader.encoded:
            usual = 2 if hasattr(self.tokenizer, "build_prompt") else 3
            self._choose_template(getattr(loader, "version", usual))
        shard, shards = loader.shard or (rank, rank_size)
        order = Order(
            num_rows=len(self.rows),
            batch_size=batch_size,
            seed=seed or 0,
            shuffle=loader.shuffle,
            drop_remainder=drop_remainder,
            repeat=repeat,
            rank=shard,
            rank_size=shards,
        )
        super().__init__(order=order, place=str(loader.path), prefetch_size=prefetch_size)
        self.probe()

    def example(self, index: int) -> Example:
        """Row `index` as padded ids and labels."""
        row = self.rows[index]
        if isinstance(row, Example):
            return row
        return self._train(row) if self.phase == "train" else self._eval(row)

    def line(self, index: int) -> int:
        """Line of the file, from 1, that row `index` came from."""
        row = self.rows[index]
        return row.line if isinstance(row, Pair) else index + 1

    def _choose_template(self, version: int) -> None:
        if version not in (2, 3):
            raise ConfigError(
                "data_loader.version", version, _REFUSED.get(version, "Use 2 for ChatGLM2, 3 for ChatGLM3.")
            )
        if version == 2 and not hasattr(self.tokenizer, "build_prompt"):
            fix = "Version 2 wraps prompts for ChatGLM2; with ChatGLM3Tokenizer use version: 3."
            raise ConfigError("data_loader.version", version, fix)
        self.version = version
        with_history = next((row for row in self.rows if row.history), None) if version == 3 else None
        if with_history is not None:
            logger.warning(
                "%s:%d: version 3 has no form for earlier rounds: `history` is not read. MultiTurnDataset reads it.",
                self.loader.path,
                with_history.line,
            )

    def _text(self, prompt: str, history: Rounds = ()) -> str:
        """The prompt in its template, after the rounds before it."""
        return prompt if self.version == 3 else self.tokenizer.build_prompt(prompt, list(history))

    def _train(self, pair: Pair) -> Example:
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        whole = self.tokenizer.encode(pair.answer, add_special_tokens=False)
        answer, answer_cut = whole[: self.target], len(whole) > self.target
        prompt, prompt_cut = self._prompt(pair, self.source + self.target - len(answer))
        closed = [eos] if self.eos_after_truncation or not answer_cut else []
        ids = [*prompt, *answer, *closed]
        if self.convention == "1.0":
            labels = [pad] * (len(prompt) - 1) + answer + closed
        else:
            labels = [pad] * len(prompt) + answer[1:] + closed
        length = self.source + self.target + 1
        labels += [pad] * (length - len(labels))
        if self.ignore_pad:
            labels = [IGNORED if label == pad else label for label in labels]
        return Example(ids + [pad] * (length - len(ids)), labels, len(ids), prompt_cut or answer_cut)

    def _prompt(self, pair: Pair, room: int) -> tuple[list[int], bool]:
        """Ids of the prompt and whether something of it is lost; with earlier rounds they take up to `room`."""
        history = pair.history if self.version == 2 else ()
        for first in range(len(history)):
            ids = self.tokenizer.encode(self._text(pair.prompt, history[first:]))
            if len(ids) <= room:
                if first:
                    self._warn_of_rounds(pair, first)
                return ids, first > 0
        if history:
            self._warn_of_rounds(pair, len(history))
        ids = self.tokenizer.encode(self._text(pair.prompt))
        if len(ids) <= self.source:
            return ids, bool(history)
        if self.keep_template:
            return self._shortened(pair), True
        self._warn_of_cut(pair)
        return ids[: self.source], True

    def _warn_of_rounds(self, pair: Pair, count: int) -> None:
        """Warns of the first history that does not fit; `statistics.cut` counts them all."""
        if not self._warned_of_rounds:
            self._warned_of_rounds = True
            logger.warning(
                "%s:%d: the history does not fit and loses its %d oldest rounds; raise max_source_length and "
                "seq_length. Others are not named.",
                self.place,
                pair.line,
                count,
            )

    def _warn_of_cut(self, pair: Pair) -> None:
        """Warns of the first prompt that loses its end; `statistics.cut` counts them all."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s:%d: the prompt is longer than max_source_length %d and loses its end; raise it, or set "
                "keep_template: True to shorten the text inside the template. Others are not named.",
                self.place,
                pair.line,
                self.source,
            )

    def _shortened(self, pair: Pair) -> list[int]:
        """The longest beginning of the prompt whose template still fits, by bisection over characters."""
        low, high = 0, len(pair.prompt)
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(self.tokenizer.encode(self._text(pair.prompt[:middle]))) <= self.source
            low, high = (middle, high) if fits else (low, middle - 1)
        ids = self.tokenizer.encode(self._text(pair.prompt[:low]))
        require(len(ids) <= self.source, "max_source_length", self.source, f"The template alone takes {len(ids)}.")
        return ids

    def _eval(self, pair: Pair) -> Example:
        """Prompt and reference, each cut where it must be; see `cut_by`."""
        pad, by_tokens = self.tokenizer.pad_token_id, self.cut_by == "tokens"
        text = self._text(pair.prompt)
        if self.keep_template or by_tokens or (pair.history and self.version == 2):
            ids, cut = self._prompt(pair, self.source)
        else:
            ids = self.tokenizer.encode(text[: self.source - 1], max_length=self.source)
            cut = len(text) > self.source - 1
            if cut:
                self._warn_of_cut(pair)
        answer = pair.answer if by_tokens else pair.answer[: self.target - 1]
        labels = self.tokenizer.encode(answer, max_length=self.target)
        padded = ids + [pad] * (self.source - len(ids))
        return Example(padded, labels + [pad] * (self.target - len(labels)), len(ids), cut)


def _pair(row: Any) -> Any:
    """A conversation of questions and answers as its last round with the ones before; other rows as they are.

    Raises:
        ConfigError: a conversation has a system message, tools, or two turns of one speaker.
    """
    messages = getattr(row, "messages", None)
    if messages is None:
        return row
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) or any(message.metadata for message in messages):
        fix = "It has more than questions and answers: set train_dataset_task.type to MultiTurnDataset."
        raise ConfigError("data_loader.type", f"the conversation of line {row.line}", fix)
    texts = [message.content for message in messages]
    *history, (prompt, answer) = zip(texts[::2], texts[1::2], strict=True)
    return Pair(row.line, prompt, answer, tuple(history))
