"""Handlers of MindFormers 2.x: what makes ids of alpaca rows, and packs of rows of ids.

A handler takes the rows of all files and gives those of the next one. Source: MindFormers 2.1, dataset/handler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mindformers_glm.data.packing import Ids, join, sequential, stream
from mindformers_glm.data.record import Fault, Record
from mindformers_glm.data.records import judge
from mindformers_glm.errors import ConfigError, DataError, kind_of
from mindformers_glm.files import user_path
from mindformers_glm.labels import IGNORED
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers import GLMTokenizer, Message, Renderer


class Tokens(NamedTuple):
    """A row as ids and labels of equal length. `shifted` labels stand where they are predicted."""

    line: int
    ids: Ids
    labels: Ids
    shifted: bool
    first_visible: Ids | None = None
    used: int | None = None


class AlpacaInstructDataHandler:
    """Rows with `instruction`, `input`, `output` as ids; what is longer than `seq_length` is cut.

    `template: chat` (the default here) renders them as chat and server do, so that the tuned model answers there;
    `mindformers` takes the words of MindFormers' handler ("USER: ... ASSISTANT: ..."), the tokenizer's prefix once.
    """

    def __init__(
        self,
        seq_length: int | None = None,
        tokenizer: dict[str, Any] | None = None,
        tokenizer_name: str | None = None,
        padding: bool = True,
        is_dynamic: bool = False,
        prompt_key: str | None = None,
        output_columns: list[str] | None = None,
        pretrained_model_dir: str | None = None,
        trust_remote_code: bool = False,
        template: Literal["chat", "mindformers"] = "chat",
    ) -> None:
        if template not in ("chat", "mindformers"):
            raise ConfigError("handler.template", template, "Use chat or mindformers.")
        self.seq_length, self.template = seq_length, template
        spec = dict(tokenizer or {})
        place = spec.pop("pretrained_model_dir", None) or pretrained_model_dir or tokenizer_name
        self.tokenizer: GLMTokenizer | None = None
        if "type" in spec:
            for name in ("trust_remote_code", "padding_side"):
                spec.pop(name, None)
            self.tokenizer = TOKENIZERS.build(spec, "handler.tokenizer")
        elif place:
            self.tokenizer = tokenizer_from(user_path(place))

    def __call__(self, rows: list[Any], tokenizer: GLMTokenizer | None) -> list[Any]:
        """The rows as Tokens. Rows that cannot be used are named by line and left out."""
        tokenizer = self.tokenizer or tokenizer
        if tokenizer is None:
            fix = "Name the model's folder: tokenizer: {pretrained_model_dir: FOLDER}."
            raise ConfigError("handler.tokenizer", None, fix)
        log_once(f"AlpacaInstructDataHandler writes rows with template: {self.template}")
        renderer, kept, faults = Renderer(tokenizer), [], []
        for row in rows:
            try:
                instruction, more, output = _alpaca(row)
            except ValueError as error:
                faults.append(Fault(row.line, str(error)))
                continue
            if self.template == "chat":
                asked = "\n".join(part for part in (instruction, more) if part)
                ids, labels = renderer.example([Message("user", asked), Message("assistant", output)])
                made = Tokens(row.line, ids[: self.seq_length], labels[: self.seq_length], shifted=True)
            else:
                ids, labels = _as_mindformers(tokenizer, instruction, more, output)
                made = Tokens(row.line, ids[: self.seq_length], labels[: self.seq_length], shifted=False)
            kept.append(made)
        judge(Path("AlpacaInstructDataHandler"), len(kept), faults, 0.5)
        return kept


class PackingHandler:
    """Several rows in one of `seq_length`, each attending to itself alone.

    `pack` keeps rows whole, in their order, and leaves out those that are longer; `truncate` lays all end to end and
    cuts. MindFormers closes the labels of every packed row with the pad id, which is then learned;
    `label_convention: "2.1"` does the same, otherwise that place is not learned.
    """

    def __init__(
        self,
        seq_length: int,
        pack_strategy: Literal["pack", "truncate"] = "pack",
        label_convention: str | None = None,
        pad_token_id: int = 0,
        output_columns: list[str] | None = None,
    ) -> None:
        if pack_strategy not in ("pack", "truncate"):
            raise ConfigError("handler.pack_strategy", pack_strategy, "Use pack or truncate.")
        if label_convention not in (None, "2.1"):
            raise ConfigError("handler.label_convention", label_convention, 'Use "2.1", or leave it out.')
        self.seq_length, self.truncates = seq_length, pack_strategy == "truncate"
        self.closing = pad_token_id if label_convention == "2.1" else IGNORED
        self.pad = pad_token_id

    def __call__(self, rows: list[Any], tokenizer: GLMTokenizer | None) -> list[Any]:
        """The packs of the rows, as Tokens with `first_visible`."""
        given = [self._shifted(as_tokens(row)) for row in rows]
        if self.truncates:
            pieces = stream([(row.ids, row.labels) for row in given], self.seq_length, pad_id=self.pad)
            return [Tokens(given[0].line, p.input_ids, p.labels, True, p.first_visible, p.used) for p in pieces]
        packs = sequential([len(row.ids) for row in given], self.seq_length)
        left_out = len(given) - sum(map(len, packs))
        if left_out:
            logger.warning("PackingHandler: %d rows are longer than %d and left out", left_out, self.seq_length)
        if not packs:
            raise ConfigError("handler.seq_length", self.seq_length, "Every row is longer: raise it.")
        made = []
        for pack in packs:
            members = [given[number] for number in pack]
            one = join([(row.ids, row.labels) for row in members], self.seq_length, pad_id=self.pad)
            starts = np.repeat([0, *one.ends], np.diff([0, *one.ends, self.seq_length]))
            made.append(Tokens(members[0].line, one.input_ids, one.labels, True, starts, one.ends[-1]))
        filled = 100 * sum(row.used or 0 for row in made) / (len(made) * self.seq_length)
        logger.info("PackingHandler: %d rows in %d packs, %.1f %% filled", len(given), len(made), filled)
        return made

    def _shifted(self, row: Tokens) -> Tokens:
        return row if row.shifted else row._replace(labels=[*list(row.labels)[1:], self.closing], shifted=True)


def as_tokens(row: Any) -> Tokens:
    """A row of ids, also one that a file holds as `input_ids` and `labels` (without them, the ids themselves).

    Labels that repeat their ids are shifted when the row is used, those that repeat the next ids stand shifted.

    Raises:
        DataError: the row has no ids.
    """
    if isinstance(row, Tokens):
        return row
    value = row.value if isinstance(row.value, Mapping) else {}
    ids: Any = value.get("input_ids")
    labels: Any = value.get("labels", ids)
    if not _are_ids(ids) or not _are_ids(labels) or len(ids) != len(labels):
        fault = f"line {row.line} holds no `input_ids` and `labels` of equal length"
        raise DataError("HFDataLoader", fault, "Put AlpacaInstructDataHandler first, or use type: AutoDataLoader")
    return Tokens(row.line, ids, labels, shifted=_are_shifted(ids, labels))


def _are_shifted(ids: Sequence[int], labels: Sequence[int]) -> bool:
    beside = sum(one == label for one, label in zip(ids, labels, strict=True))
    return sum(one == label for one, label in zip(ids[1:], labels, strict=False)) > beside


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _alpaca(row: Any) -> tuple[str, str, str]:
    value = row.value if isinstance(row, Record) else None
    if not isinstance(value, Mapping):
        raise ValueError(f"not an object but {kind_of(value)}")
    found = [value.get(name) or "" for name in ("instruction", "input", "output")]
    if not all(isinstance(text, str) for text in found) or not found[0].strip() or not found[2].strip():
        has = ", ".join(map(str, value))
        raise ValueError(f"needs text under `instruction` and `output`, has {has}")
    return found[0], found[1], found[2]


def _as_mindformers(tokenizer: GLMTokenizer, instruction: str, more: str, output: str) -> tuple[list[int], list[int]]:
    context = ", paired with an input that provides further context" if more else ""
    asked = (
        f"Below is an instruction that describes a task{context}. Write a response that appropriately completes the "
        f"request.\n\n### Instruction:\n{instruction}\n\n"
        + (f"### Input:\n{more}\n\n" if more else "")
        + "### Response:"
    )
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    encode = tokenizer.vocabulary.encode
    prompt = [*tokenizer.get_prefix_tokens(), *encode(system), *encode(f"USER: {asked} ")]
    reply = [*encode(f"ASSISTANT: {output}"), tokenizer.eos_token_id]
    return prompt + reply, [IGNORED] * len(prompt) + reply
