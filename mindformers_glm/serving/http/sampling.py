"""How a request wants its answers drawn: the fields that chat and completions share, and the engine's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.serving.http.body import Body, flag, ids, mapping, number, text, texts, whole
from mindformers_glm.serving.http.errors import refused, wrong

MOST_STOPS, LONGEST_STOP = 16, 1024
_DRAWS = ("temperature", "top_p", "top_k", "seed")  # any of them, and an answer is drawn
TokenMask = Callable[[Sequence[int]], np.ndarray]  # from new ids to the bits of those that may come


@dataclass
class Sampling:
    """What was asked for. `drawn` are the settings that were given, None where the model's own hold."""

    drawn: dict[str, Any]
    max_tokens: int | None = None
    min_tokens: int = 0
    stops: list[str] = field(default_factory=list)
    stop_ids: list[int] = field(default_factory=list)
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    biases: dict[int, float] = field(default_factory=dict)
    presence: float = 0.0
    frequency: float = 0.0
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    priority: int = 0

    def config(
        self,
        defaults: GenerationConfig,
        *,
        end_ids: Sequence[int],
        mask: TokenMask | None = None,
        stop: Callable[[list[int]], bool],
        limit: int,
    ) -> GenerationConfig:
        """The engine's settings for one answer of at most `limit` tokens."""
        return defaults.updated(
            **self._draws(defaults),
            num_beams=1,
            num_return_sequences=1,
            max_new_tokens=limit,
            min_new_tokens=min(self.min_tokens, limit),
            eos_token_id=list(end_ids),
            logit_bias=self.biases,
            presence_penalty=self.presence,
            frequency_penalty=self.frequency,
            token_mask=mask,
            stop=stop,
            output_logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
        )

    def _draws(self, defaults: GenerationConfig) -> dict[str, Any]:
        given = {name: value for name, value in self.drawn.items() if value is not None}
        if given.get("temperature") == 0:
            return {**given, "do_sample": False}
        if not set(given) & set(_DRAWS):
            return given
        own = defaults if not defaults.greedy else GenerationConfig(do_sample=True, top_k=0)
        usual = {"temperature": own.temperature, "top_p": own.top_p, "top_k": own.top_k}
        return {"do_sample": True, **usual, **given}


def read_sampling(body: Body, vocab_size: int, *, most_answers: int, has_priorities: bool = False) -> Sampling:
    """Takes the shared fields.

    Raises:
        ApiError: a value that makes no sense, or a field that this server does not have.
    """
    drawn = {
        "temperature": body.take("temperature", number(0, 2)),
        "top_p": body.take("top_p", number(0, 1)),
        "top_k": body.take("top_k", _top_k),
        "repetition_penalty": body.take("repetition_penalty", number(0, 10, above=True)),
        "seed": body.take("seed", _seed),
    }
    stream = body.take("stream", flag, False)
    options = body.take("stream_options", mapping)
    include_usage = False
    if options is not None:
        if not stream:
            raise refused("stream_options", "only with stream: true")
        inner = Body(options, "stream_options")
        include_usage = inner.take("include_usage", flag, False)
        inner.take("include_obfuscation", flag)
        inner.refuse("continuous_usage_stats", "the usage is told once, in the last chunk", False)
        inner.finish()
    sampling = Sampling(
        drawn,
        min_tokens=body.take("min_tokens", whole(0), 0),
        stops=body.take("stop", texts(MOST_STOPS, LONGEST_STOP), []),
        stop_ids=body.take("stop_token_ids", ids(vocab_size, 64), []),
        include_stop=body.take("include_stop_str_in_output", flag, False),
        ignore_eos=body.take("ignore_eos", flag, False),
        biases=body.take("logit_bias", _biases(vocab_size), {}),
        presence=body.take("presence_penalty", number(-2, 2), 0.0),
        frequency=body.take("frequency_penalty", number(-2, 2), 0.0),
        n=body.take("n", whole(1, most_answers), 1),
        stream=stream,
        include_usage=include_usage,
        skip_special_tokens=body.take("skip_special_tokens", flag, True),
    )
    body.refuse("min_p", "not here; use top_p or top_k", 0, 0.0)
    body.refuse("use_beam_search", "answers are drawn or greedy here; run_mode predict has beam search", False)
    body.refuse("length_penalty", "it belongs to beam search, which is not here", 1, 1.0)
    body.refuse("prompt_logprobs", "use /v1/completions with echo and logprobs")
    if has_priorities:
        sampling.priority = body.take("priority", whole(-(2**31), 2**31), 0)
    else:
        body.refuse("priority", "this server serves requests as they come (--scheduling_policy priority)", 0)
    for name in ("user", "safety_identifier", "prompt_cache_key"):  # they name a client, and change no answer
        body.take(name, text)
    return sampling


def check_lengths(sampling: Sampling, name: str = "max_tokens") -> None:
    """Passes when the fewest tokens are not above the most.

    Raises:
        ApiError: they are.
    """
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise wrong("min_tokens", sampling.min_tokens, f"It exceeds {name} ({sampling.max_tokens}).")


def _top_k(value: Any) -> int:
    return 0 if value == -1 and not isinstance(value, bool) else whole(0)(value)


def _seed(value: Any) -> int:
    return whole(-(2**63))(value) % 2**63


def _biases(vocab_size: int) -> Callable[[Any], dict[int, float]]:
    bias = number(-100, 100)

    def read(value: Any) -> dict[int, float]:
        if not isinstance(value, dict) or len(value) > 1024:
            raise ValueError("Give an object of at most 1024 token ids and their biases.")
        if not all(key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size for key in value):
            raise ValueError(f"Its keys are token ids from 0 to {vocab_size - 1}, as text.")
        return {int(key): bias(number_) for key, number_ in value.items()}

    return read
