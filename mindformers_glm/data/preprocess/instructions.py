"""Handlers of instructions: rows in ModelLink's template of Alpaca, of which the last answer is learned.

Source: ModelLink 1.1, modellink/data_handler.py and prompter.py (names, words and masks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.data.packing import join, neat
from mindformers_glm.data.preprocess.handlers import HANDLERS, Encoded, Handler, encoded, text_of
from mindformers_glm.errors import DataError
from mindformers_glm.labels import IGNORED

_SYSTEM = (
    "\nBelow is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request. Please note that you need to think through your response "
    "logically and step by step.\n"
)
_USER, _ASSISTANT = "### Instruction:", "### Response:"


class Said(NamedTuple):
    """A turn: whether the user says it, and what."""

    by_user: bool
    text: str


@HANDLERS.register()
class GeneralInstructionHandler(Handler):
    """Instruction, input and output in the template of Alpaca; the answer alone is learned.

    Files: PREFIX_packed_{input_ids,attention_mask,labels}_document. With `seq_length`, a row of so many ids or more is
    left out and its document border stays, as in ModelLink. With `pack` too, rows of at most `seq_length` - 1 ids go
    together (packing.neat, in groups of some thousand) and are filled up; the mask counts them from 1, and training
    keeps them apart. Longer rows leave no trace then.
    """

    packs = True
    ends = True  # whether `append_eod` is heard

    @property
    def outputs(self) -> list[str]:
        """See Handler."""
        return [f"_packed_{name}_document" for name in ("input_ids", "attention_mask", "labels")]

    def conversations(self, place: str, line: int, record: Any) -> list[list[Said]]:
        """The conversations of a record, a sequence each.

        Raises:
            DataError: a column is missing, or holds something else.
        """
        asked = (
            f"{self.text(place, line, record, 'instruction')}\n{self.text(place, line, record, 'input', empty=True)}"
        )
        return [[Said(True, asked), Said(False, self.text(place, line, record, "output"))]]

    def encode(self, place: str, records: Sequence[tuple[int, Any]]) -> dict[str, Encoded]:
        """See Handler."""
        documents = list(filter(None, (self.conversations(place, line, record) for line, record in records)))
        texts = [_text(turns) for conversations in documents for turns in conversations]
        encode = self.tokenizer.vocabulary.encode_many
        ids, labels, kept = [], [], []
        end = [self.eod] if self.append_eod and self.ends else []
        for whole, prompt in zip(encode(texts), encode([_up_to_answer(text) for text in texts]), strict=True):
            row, masked = [*self.prefix, *whole, *end], len(self.prefix) + len(prompt)
            kept.append(self.fits(row))
            if kept[-1]:
                ids.append(row)
                labels.append([IGNORED] * masked + row[masked:])
        borders = np.cumsum([0, *map(len, documents)])
        written = np.concatenate(([0], np.cumsum(kept, dtype=np.int64)))[borders]
        counts = np.diff(written)
        masks: list[list[int]] = [[1] * len(row) for row in ids]
        if self.pack:
            rows = list(zip(ids, labels, strict=True))
            length = int(self.seq_length or 0)
            packs = [join([rows[n] for n in pack], length) for pack in neat([len(row) for row in ids], length - 1)]
            ids, labels = [p.input_ids.tolist() for p in packs], [p.labels.tolist() for p in packs]
            masks, counts = [p.segments.tolist() for p in packs], np.ones(len(packs), np.int64)
        made = zip(self.outputs, (ids, masks, labels), strict=True)
        return {name: encoded(rows, self.dtype, counts) for name, rows in made}

    @staticmethod
    def text(place: str, line: int, record: Any, key: str, *, empty: bool = False) -> str:
        """The text of a column; with `empty`, "" where there is none."""
        if empty and isinstance(record, Mapping) and record.get(key) is None:
            return ""
        return text_of(place, line, record, key, fix="This handler reads alpaca rows: instruction, input, output")


@HANDLERS.register()
class BelleMultiTurnInstructionHandler(GeneralInstructionHandler):
    """Rows of BELLE: the rounds before stand in `instruction` as "Human:... Assistant:...", the answer in `output`."""

    def conversations(self, place: str, line: int, record: Any) -> list[list[Said]]:
        """See GeneralInstructionHandler."""
        turns: list[Said] = []
        for part in filter(None, self.text(place, line, record, "instruction").split("Human:")):
            asked, *answers = part.split("Assistant:")
            turns += [Said(True, asked.strip()), Said(False, answers[0].strip())] if answers else []
            turns += [] if answers else [Said(False, asked.strip())]
        if not turns:
            fix = 'Write the rounds as "Human:... Assistant:...", or use GeneralInstructionHandler'
            raise DataError(place, f"line {line} has no round under 'instruction'", fix)
        return [[*turns[:-1], Said(False, self.text(place, line, record, "output").strip())]]


@HANDLERS.register()
class MOSSInstructionHandler(GeneralInstructionHandler):
    """Rows of MOSS: `chat` holds turns {"Human", "MOSS"}; each is a sequence with those before it. No end mark."""

    ends = False

    def conversations(self, place: str, line: int, record: Any) -> list[list[Said]]:
        """See GeneralInstructionHandler."""
        chat = record.get("chat") if isinstance(record, Mapping) else None
        if not isinstance(chat, Mapping):
            raise DataError(place, f"line {line} has no turns under 'chat'", "This handler reads rows of MOSS")
        turns: list[Said] = []
        found = []
        for turn in filter(None, chat.values()):
            human, moss = (self.text(place, line, turn, name) for name in ("Human", "MOSS"))
            turns.append(Said(True, human.replace("<eoh>", "").replace("<|Human|>: ", "").strip()))
            turns.append(Said(False, moss.replace("<|MOSS|>:", "").replace("<eom>", "").strip()))
            found.append(list(turns))
        return found


@HANDLERS.register()
class LeetcodePythonInstructionHandler(GeneralInstructionHandler):
    """Rows with `code_with_problem`, `code_only` and `explanation_only`: the problem, then code and explanation."""

    def conversations(self, place: str, line: int, record: Any) -> list[list[Said]]:
        """See GeneralInstructionHandler."""
        names = ("code_with_problem", "code_only", "explanation_only")
        problem, code, explanation = (self.text(place, line, record, name) for name in names)
        return [[Said(True, problem.split("```", maxsplit=1)[0].strip()), Said(False, f"{code}\n{explanation}")]]


def _text(turns: Sequence[Said]) -> str:
    return _SYSTEM + "".join(f"{_USER if turn.by_user else _ASSISTANT}\n{turn.text}\n" for turn in turns)


def _up_to_answer(text: str) -> str:
    return f"{text.rpartition(_ASSISTANT)[0]}{_ASSISTANT}\n"
