"""What lm-evaluation-harness asks of a model, answered by the engine: text in, log-probabilities and text out.

The harness itself is not needed here; lm_eval_adapter.py makes a model of it that the harness knows by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_glm.errors import GenerationError
from mindformers_glm.evaluation.answering import answer
from mindformers_glm.evaluation.interface import Judged, Results, Row, Score, Scored, Steps
from mindformers_glm.evaluation.tasks.perplexity import rolling_windows
from mindformers_glm.evaluation.tasks.ways import encoded
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate
from mindformers_glm.log import logger
from mindformers_glm.tokenizers import Renderer

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
_TAIL = 32  # new ids that are looked at for an end besides twice the length of the longest one


class Harness:
    """A model as the harness sees it. `batch_size` contexts are computed at a time.

    Texts stand after the tokenizer's prefix, as in the way `lm-eval` of our own tasks; the harness' class for PyTorch
    loses it with ChatGLM's tokenizer.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        *,
        batch_size: int = 8,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        shows_bar: bool = False,
    ) -> None:
        self.engine, self.tokenizer, self.batch_size = engine, tokenizer, batch_size
        self.max_length = min(max_length or engine.max_length, engine.max_length)
        self.max_gen_toks, self.shows_bar = max_gen_toks, shows_bar
        self.renderer = Renderer(tokenizer)
        self._rendered: dict[str, list[int]] = {}  # text of a prompt in the chat format -> its ids

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation) the log-probability, and whether greedy search would write it.

        A context that does not fit is cut on the left, as the harness cuts it.

        Raises:
            GenerationError: a continuation is empty or exceeds the model's length by itself.
        """
        together: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for number, (context, continuation) in enumerate(pairs):
            before, after = self.pair_ids(context, continuation)
            together.setdefault(tuple(before), []).append((number, after))
        requests = [Score(list(before), [after for _, after in asked]) for before, asked in together.items()]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        for asked, scored in zip(together.values(), self._scored(requests, "loglikelihood"), strict=True):
            for (number, _), total, greedy in zip(asked, scored.sums, scored.is_greedy, strict=True):
                found[number] = (float(total), bool(greedy))
        return found

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each whole text after the prefix; longer ones in windows of the model's length."""
        start, requests, owners = list(self.tokenizer.get_prefix_tokens()), [], []
        for number, text in enumerate(texts):
            ids = self.tokenizer.vocabulary.encode(text)
            for context, continuation in rolling_windows(ids, start, self.max_length) if ids else ():
                requests.append(Score(context, [continuation]))
                owners.append(number)
        totals = [0.0] * len(texts)
        for number, scored in zip(owners, self._scored(requests, "loglikelihood_rolling"), strict=True):
            totals[number] += float(scored.sums[0])
        return totals

    def texts(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The text that follows each context, without what ended it. `asked`: (context, the harness' settings).

        Raises:
            GenerationError: a setting that nobody has, or no room for an answer.
        """
        groups: dict[str, list[int]] = {}
        for number, (_, settings) in enumerate(asked):
            groups.setdefault(repr(sorted(settings.items(), key=str)), []).append(number)
        found = [""] * len(asked)
        for numbers in groups.values():
            config, ends = self._settings(asked[numbers[0]][1])
            prompts = {number: self.prompt_ids(asked[number][0], config.max_new_tokens or 1) for number in numbers}
            order = sorted(numbers, key=lambda number: -len(prompts[number]))
            for begin in range(0, len(order), self.batch_size):
                part = order[begin : begin + self.batch_size]
                results = generate(self.engine, [prompts[number] for number in part], config)
                for number, result in zip(part, results, strict=True):
                    text = self.tokenizer.decode(list(result.ids), skip_special_tokens=True)
                    found[number] = _before(text, ends)
        return found

    def chat(self, messages: Sequence[Mapping[str, str]], *, open_reply: bool = True) -> str:
        """The text of a conversation in the model's own format; given back as a context it stands for the exact ids."""
        ids = self.renderer.prompt([dict(message) for message in messages], open_reply=open_reply)
        text = self.renderer.text(list(ids))
        self._rendered[text] = list(ids)
        return text

    def pair_ids(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of its continuation, the context cut on its left to fit the model."""
        chat = self._chat_ids(context)
        if chat is None:
            request, cut = encoded(self.tokenizer, context, [continuation], self.max_length)
            before, after = list(request.context), list(request.continuations[0])
        else:
            ids, rest = chat
            before = [*ids, *(self.tokenizer.vocabulary.encode(rest) if rest else ())]
            after = [*ids, *self.tokenizer.vocabulary.encode(rest + continuation)][len(before) :]
            cut = len(before) + len(after) - 1 > self.max_length
            before = before[-(self.max_length + 1 - len(after)) :] if cut else before
        if not after:
            raise GenerationError(f"loglikelihood: the continuation {continuation!r} has no token of its own")
        if cut:
            logger.warning("A context of more than %d tokens was cut on the left", self.max_length)
        return before, after

    def prompt_ids(self, context: str, new: int) -> list[int]:
        """Ids of a prompt that leave room for `new` tokens."""
        chat = self._chat_ids(context)
        prefix, rest = (list(self.tokenizer.get_prefix_tokens()), context) if chat is None else chat
        ids = [*prefix, *(self.tokenizer.vocabulary.encode(rest) if rest else ())]
        room = self.max_length - new
        if room < 1:
            raise GenerationError(f"generate_until: {new} new tokens and the model's seq_length is {self.max_length}")
        if len(ids) > room:
            logger.warning("A prompt of %d tokens was cut on the left to %d, with room for the answer", len(ids), room)
        return ids[-room:]

    def _chat_ids(self, context: str) -> tuple[list[int], str] | None:
        """Ids of the conversation that a context begins with, and the text after it; None for plain text."""
        if context in self._rendered:
            return self._rendered[context], ""
        known = [text for text in self._rendered if context.startswith(text)]
        best = max(known, key=len, default=None)
        return None if best is None else (self._rendered[best], context[len(best) :])

    def _scored(self, requests: Sequence[Score], name: str) -> list[Scored]:
        task = _Asked(name, requests)
        answer(task, self.engine, batch_size=self.batch_size, shows_bar=self.shows_bar)
        return [task.found[number] for number in range(len(requests))]

    def _settings(self, given: Mapping[str, Any]) -> tuple[GenerationConfig, list[str]]:
        settings = dict(given)
        until = settings.pop("until", None) or []
        ends = [end for end in ([until] if isinstance(until, str) else list(until)) if end]
        lengths = [settings.pop(name) for name in _LENGTHS if name in settings]
        new = int(next((length for length in lengths if length is not None), self.max_gen_toks))
        do_sample = bool(settings.pop("do_sample", False))
        if not do_sample:
            for name in ("temperature", "top_p", "top_k"):
                settings.pop(name, None)
        defaults = self.engine.defaults
        longest = max(map(len, ends), default=0)

        def ended(ids: list[int]) -> bool:
            text = self.tokenizer.decode(ids[-(_TAIL + 2 * longest) :], skip_special_tokens=True)
            return any(end in text for end in ends)

        config = defaults.ending_also(self.tokenizer.stop_ids).updated(
            do_sample=do_sample,
            num_beams=1,
            repetition_penalty=1.0,
            max_length=None,
            max_new_tokens=new,
            stop=ended if ends else None,
        )
        return (config.updated(**settings) if settings else config), ends


def _before(text: str, ends: Sequence[str]) -> str:
    """What comes before the first of the ends."""
    return text[: min((text.index(end) for end in ends if end in text), default=len(text))]


class _Asked:
    """Requests as a task, so that they are answered in the batches of our own benchmarks."""

    def __init__(self, name: str, requests: Sequence[Score]) -> None:
        self.name, self.requests = name, requests
        self.found: dict[int, Scored] = {}

    def rows(self) -> list[Row]:
        """See Task."""
        return [Row(self.name, number, {}) for number in range(len(self.requests))]

    def steps(self, row: Row) -> Steps:
        """See Task."""
        self.found[row.number] = yield self.requests[row.number]
        return Judged({}, {})

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """See Task."""
        return Results({}, {})
