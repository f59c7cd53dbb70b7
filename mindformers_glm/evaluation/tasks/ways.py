"""How a question with four choices is asked and its answer read: one class a way, named by its source.

Each way says the exact words, because scores of different wordings cannot be compared (docs/evaluation.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.interface import Judged, Score, Scored, Steps, Text
from mindformers_glm.evaluation.tasks.table import LETTERS, Question
from mindformers_glm.tokenizers import Message, Renderer


class Subject(NamedTuple):
    """A subject of a benchmark: its name, its title in the prompts' language, its examples (the rows of dev)."""

    name: str
    title: str
    examples: Sequence[Question]


class Wording(NamedTuple):
    """What a benchmark's prompts say in the way of lm-evaluation-harness."""

    description: str  # with {title}
    answer: str  # what asks for the letter


class Way(Protocol):
    """A way to ask."""

    default_fewshot: int

    def steps(self, question: Question, subject: Subject) -> Steps:
        """The requests of a question."""


class LmEval:
    r"""lm-evaluation-harness 0.4: log-probabilities of " A" to " D" after description, examples and question.

    context = description + "".join(example + "\n\n") + question; an example is the question and " " + its letter. The
    examples are the first of dev. Ids: the tokenizer's prefix once, then the text; the ids of a continuation are those
    that context + continuation has more than context. White space that ends a context goes to the continuation.
    """

    default_fewshot = 5

    def __init__(self, tokenizer: Any, wording: Wording, *, max_length: int | None, num_fewshot: int) -> None:
        self.tokenizer, self.wording, self.max_length, self.num_fewshot = tokenizer, wording, max_length, num_fewshot
        self._begun: dict[str, str] = {}

    def steps(self, question: Question, subject: Subject) -> Steps:
        """See Way."""
        context = self.context(question, subject)
        request, cut = encoded(self.tokenizer, context, [f" {letter}" for letter in LETTERS], self.max_length)
        scored: Scored = yield request
        return chosen(question, scored, request, cut=cut)

    def context(self, question: Question, subject: Subject) -> str:
        """Everything before the letter."""
        if subject.name not in self._begun:
            begin = self.wording.description.format(title=subject.title)
            for example in subject.examples[: self.num_fewshot]:
                begin += f"{self._block(example)} {LETTERS[example['answer']]}\n\n"
            self._begun[subject.name] = begin
        return self._begun[subject.name] + self._block(question)

    def _block(self, question: Question) -> str:
        return listed(question["question"].strip(), question["choices"]) + "\n" + self.wording.answer


class Official:
    """ChatGLM2-6B's evaluate_ceval.py: the answer first, greedily, then the letter that its logits prefer.

    Both prompts stand in the chat format of ChatGLM2 and are cut on the right at 2,048 ids, as there.
    """

    default_fewshot = 0
    max_prompt_tokens = 2048
    max_new_tokens = 512
    extraction = "综上所述，ABCD中正确的选项是："

    def __init__(self, tokenizer: Any, wording: Wording, *, max_length: int | None, num_fewshot: int) -> None:
        if num_fewshot:
            raise ConfigError("--num_fewshot", num_fewshot, "The official way asks without examples: 0.")
        self.tokenizer, self.choice_ids = tokenizer, choice_ids(tokenizer)

    def steps(self, question: Question, subject: Subject) -> Steps:
        """See Way."""
        asked = question.get("inputs_pretokenized") or listed(question["question"], question["choices"])
        first, cut_first = self._ids(f"[Round 1]\n\n问：{asked}\n\n答：")
        new_ids = yield Text(first, self.max_new_tokens)
        response = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        second, cut_second = self._ids(f"[Round 1]\n\n问：{asked}{response}\n{self.extraction}\n\n答：")
        request = Score(second, [[index] for index in self.choice_ids])
        scored: Scored = yield request
        judged = chosen(question, scored, request, cut=cut_first or cut_second)
        judged.details["response"], judged.details["response_ids"] = response, list(new_ids)
        return judged

    def _ids(self, prompt: str) -> tuple[list[int], bool]:
        ids = [*self.tokenizer.get_prefix_tokens(), *self.tokenizer.vocabulary.encode(prompt)]
        return ids[: self.max_prompt_tokens], len(ids) > self.max_prompt_tokens


class Chat:
    """The model's own chat format; the letter is read from a greedy answer."""

    default_fewshot = 0
    max_new_tokens = 256
    _PATTERNS = tuple(
        re.compile(pattern)
        for pattern in (
            r"(?:正确|最佳)?(?:答案|选项)(?:应该|应当|应)?(?:是|为|选|:|：)?\s*[:：]?\s*\**[\(（]?([ABCD])(?![A-Za-z])",
            r"(?:故|应|因此|所以)?选(?:择)?(?:项)?\s*[:：]?\s*[\(（]?([ABCD])(?![A-Za-z])",
            r"(?i:answer|option)(?i:\s+is|:)?\s*:?\s*\**[\(（]?([ABCD])(?![A-Za-z])",
            r"^\s*[\(（\*]*([ABCD])(?![A-Za-z])",
            r"(?<![A-Za-z])([ABCD])(?![A-Za-z])",
        )
    )

    def __init__(self, tokenizer: Any, wording: Wording, *, max_length: int | None, num_fewshot: int) -> None:
        self.tokenizer, self.wording, self.num_fewshot = tokenizer, wording, num_fewshot
        self.renderer = Renderer(tokenizer)

    def steps(self, question: Question, subject: Subject) -> Steps:
        """See Way."""
        ask = self.wording.description.format(title=subject.title).strip() + "\n\n"
        messages = []
        for example in subject.examples[: self.num_fewshot]:
            messages.append(Message("user", ask + self._block(example)))
            messages.append(Message("assistant", LETTERS[example["answer"]]))
        messages.append(Message("user", ask + self._block(question)))
        prompt = self.renderer.prompt(messages)
        new_ids = yield Text(list(prompt), self.max_new_tokens, ends=tuple(self.tokenizer.stop_ids))
        response = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        letter = self.extract(response)
        return answered(question, letter, {"response": response, "response_ids": list(new_ids), "prompt_ids": prompt})

    @classmethod
    def extract(cls, response: str) -> str | None:
        """The letter that an answer names, None where it names none."""
        for pattern in cls._PATTERNS:
            if found := pattern.search(response):
                return found.group(1)
        return None

    def _block(self, question: Question) -> str:
        return listed(question["question"].strip(), question["choices"]) + "\n" + self.wording.answer


class ModelLink:
    """ModelLink 1.1's MMLU: five examples without empty lines between them, one greedy token, two patterns."""

    default_fewshot = 5
    patterns = (re.compile(r".*(?P<answer>[A|B|C|D])\..*"), re.compile(r"(?P<answer>[A|B|C|D])"))  # with "|", as there
    _NO_VALUE = frozenset(  # what pandas reads as a missing value, which that program prints as "nan"
        [
            "#N/A",
            "#N/A N/A",
            "#NA",
            "-1.#IND",
            "-1.#QNAN",
            "-NaN",
            "-nan",
            "1.#IND",
            "1.#QNAN",
            "<NA>",
            "N/A",
            "NA",
            "NULL",
            "NaN",
            "None",
            "n/a",
            "nan",
            "null",
        ]
    )

    def __init__(self, tokenizer: Any, wording: Wording, *, max_length: int | None, num_fewshot: int) -> None:
        self.tokenizer, self.num_fewshot = tokenizer, num_fewshot
        self.choice_ids = choice_ids(tokenizer)

    def steps(self, question: Question, subject: Subject) -> Steps:
        """See Way."""
        ids = [*self.tokenizer.get_prefix_tokens(), *self.tokenizer.vocabulary.encode(self.prompt(question, subject))]
        request = Score(ids, [[index] for index in self.choice_ids])
        new_ids = yield Text(ids, 1)
        scored: Scored = yield request
        text = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        judged = answered(question, self.extract(text), {"response": text, "response_ids": list(new_ids)})
        judged.details.update(chosen(question, scored, request, cut=False).details | judged.details)
        return judged

    def prompt(self, question: Question, subject: Subject) -> str:
        """Examples and question."""
        title = subject.name.replace("_", " ")
        examples = [
            f"{self._block(example)} {LETTERS[example['answer']]}" for example in subject.examples[: self.num_fewshot]
        ]
        begin = f"The following are multiple choice questions (with answers) about  {title}.\n" + "\n".join(examples)
        return f"{begin}\n\n{self._block(question)}"

    @classmethod
    def extract(cls, text: str) -> str | None:
        """What its two patterns find, which may be "|"."""
        for pattern in cls.patterns:
            if found := pattern.match(text.lstrip()):
                return found.group("answer")
        return None

    def _block(self, question: Question) -> str:
        def read(text: str) -> str:
            return "nan" if text in self._NO_VALUE else text

        return listed(read(question["question"]), [read(text) for text in question["choices"]]) + "\nAnswer:"


WAYS: dict[str, type] = {"lm-eval": LmEval, "official": Official, "chat": Chat, "modellink": ModelLink}


def listed(question: str, choices: Sequence[str]) -> str:
    """A question and its choices, a line each."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=True))])


def choice_ids(tokenizer: Any) -> list[int]:
    """The id of each letter as the official program takes it: the first of what the letter alone encodes to."""
    return [tokenizer.vocabulary.encode(letter)[0] for letter in LETTERS]


def encoded(tokenizer: Any, context: str, continuations: Sequence[str], max_length: int | None) -> tuple[Score, bool]:
    """Ids of a context and of what may follow it, and whether the context was cut on the left to fit.

    Source: lm-evaluation-harness 0.4.13, TemplateLM._encode_pair and HFLM._loglikelihood_tokens.
    """
    kept = context.rstrip()
    space, context = context[len(kept) :], kept
    prefix = list(tokenizer.get_prefix_tokens())
    texts = [context, *(context + space + continuation for continuation in continuations)]
    if not context:
        wholes = tokenizer.vocabulary.encode_many([space + continuation for continuation in continuations])
        return Score(prefix, [list(whole) for whole in wholes]), False
    before, *wholes = ([*prefix, *ids] for ids in tokenizer.vocabulary.encode_many(texts))
    parts = [whole[len(before) :] for whole in wholes]
    longest = max(map(len, parts), default=1)
    if max_length is None or len(before) + longest - 1 <= max_length:
        return Score(before, parts), False
    return Score(before[-(max_length + 1 - longest) :], parts), True


def chosen(question: Question, scored: Scored, request: Score, *, cut: bool) -> Judged:
    """A question judged by the most probable choice (the first of equals)."""
    sums = np.asarray(scored.sums)
    prediction, ordered = int(sums.argmax()), np.sort(sums)
    details = {
        "prediction": LETTERS[prediction],
        "loglikelihood": [float(value) for value in sums],
        "margin": float(ordered[-1] - ordered[-2]),
        "choice_ids": [list(ids) for ids in request.continuations],
        "prompt_ids": list(request.context),
        "cut": cut,
    }
    return answered(question, LETTERS[prediction], details)


def answered(question: Question, letter: str | None, details: Mapping[str, Any]) -> Judged:
    """A question judged by a letter; None is wrong."""
    target = None if question["answer"] is None else LETTERS[question["answer"]]
    right = float(target is not None and letter == target)
    told = {"id": question["id"], "target": target, "prediction": letter, **details}
    return Judged({"acc": right}, told)
