"""How to generate: one dataclass, whose names are the arguments of `model.generate` and the keys users know."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.errors import MOST_NAMED, GenerationError, listed, nearest, shorten
from mindformers_glm.log import log_once

_FROM_MODEL = (
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "num_beams",
    "eos_token_id",
    "pad_token_id",
    "bos_token_id",
)
USUAL_TOP_K = 50  # the default of transformers and of the official chat
_LENGTHS = {"max_length", "max_new_tokens", "max_decode_length"}
# MindFormers' arguments that change nothing here: name -> why.
_WITHOUT_EFFECT = {
    "renormalize_logits": "probabilities are always normalised after filtering",
    "encoder_repetition_penalty": "this model has no encoder",
    "is_sample_acceleration": "sampling happens outside the network",
    "bos_token_id": "prompts bring their own first tokens",
}


class Limits(NamedTuple):
    """The most new tokens that may follow a prompt, and the fewest before it may end."""

    max_new: int
    min_new: int


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Settings of one request.

    Length. `max_new_tokens` counts new tokens and wins where it is given; `max_length` counts prompt and new tokens
    together, `max_decode_length` is its older name. Neither goes beyond the `seq_length` of the model (a warning
    says so). A prompt that leaves no room for a new token is refused, never cut. `min_new_tokens` and `min_length`
    forbid the stop ids before that length; where both are given, the later one counts.

    Choice. `do_sample: False` takes the most probable token and ignores temperature, top_k and top_p. Otherwise logits
    are divided by `temperature`, the `top_k` best stay (0: all), then the fewest whose probability reaches `top_p`.
    `temperature` 0 or `top_k` 1 is greedy search again. `repetition_penalty` divides positive and multiplies
    negative logits of every id of the sequence so far (never of padding: sequences have none). `logit_bias` is added to
    the logits of its ids; `presence_penalty` is subtracted once from those of each id generated so far,
    `frequency_penalty` as often as that id was generated. A call of `model.generate` or `chat` that says
    `do_sample=True` and no top_k uses top_k 50 where the model's own settings have 1; likewise temperature and top_p
    are 1 where these have 0.

    `seed` None draws one from NumPy's generator, which `seed:` of the YAML file seeds; each result tells its seed.
    With `num_beams` above 1 the result of beam search is returned; sampling is off then. A beam's score is the sum of
    its log-probabilities over its new tokens ** `length_penalty`; `early_stopping` True ends with the first
    `num_beams` finished ones, False when no open beam has a better score now, "never" when none can reach one.

    End. A sequence ends after an id of `eos_token_id` (kept in the result), after `stop(new ids)` returns True, or at
    its greatest length. `use_past: False` computes every step without a KV cache: slower, the same tokens.

    `prompt_lookup_num_tokens` guesses up to so many next tokens where the sequence repeats an earlier part of itself,
    and checks them in one step: the same tokens, sooner (lookup.py). Nothing is guessed where it would not be faster,
    with beams, and where the network cannot check guesses. 0: no guesses.

    `output_logprobs` adds the log softmax of the unprocessed logits at each chosen token, `top_logprobs` the same at
    so many best ids. `logits_processor` holds functions (ids (1, T), logits (1, V)) -> logits, called before sampling.
    `token_mask` is called before each token: (new ids) -> bits (uint8); bit i of byte j is 1: id 8 j + i is allowed.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    max_decode_length: int | None = None
    min_length: int = 0
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Any = ()  # id -> number; kept as pairs
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int = 0
    bos_token_id: int | None = None
    stop: Callable[[list[int]], bool] | None = None
    seed: int | None = None
    use_past: bool = True
    output_logprobs: bool = False
    top_logprobs: int = 0
    logits_processor: Sequence[Callable] = ()
    token_mask: Callable[[Sequence[int]], np.ndarray] | None = None
    prompt_lookup_num_tokens: int = 0
    renormalize_logits: bool = False
    encoder_repetition_penalty: float = 1.0
    is_sample_acceleration: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, check = getattr(self, field.name), _CHECKS.get(field.name)
            if value is None and field.name not in _OPTIONAL:
                value = field.default
            if check is not None and value is not None:
                value = check(field.name, value)
            object.__setattr__(self, field.name, value)
        self._agree()

    @classmethod
    def from_model(cls, model_config: Any) -> GenerationConfig:
        """The settings that a model configuration contains; its `seq_length` where it contains no length.

        A file with `do_sample: True` and no top_k means sampling: MindFormers' own default `top_k: 1` would undo it.
        """
        values: dict[str, Any] = {name: getattr(model_config, name, None) for name in _FROM_MODEL}
        values = {name: value for name, value in values.items() if value is not None}
        stated = getattr(model_config, "model_fields_set", values)
        if "top_k" not in stated and "do_sample" in stated:  # a file that asks for sampling and names no top_k
            values["top_k"] = USUAL_TOP_K
        if "max_new_tokens" not in values:
            lengths = (getattr(model_config, name, None) for name in ("max_length", "max_decode_length", "seq_length"))
            values["max_length"] = next((length for length in lengths if length is not None), None)
        return cls(**values)

    def updated(self, **changes: Any) -> GenerationConfig:
        """A copy with other values; None leaves a value as it is. One length in `changes` replaces all three.

        Raises:
            GenerationError: an unknown name (the nearest known one is named), or a value out of range.
        """
        known = {field.name for field in fields(self)}
        for name, value in changes.items():
            if name not in known:
                near = nearest(name, known)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {listed(sorted(known), MOST_NAMED)}."
                raise GenerationError(f"{name}: got {shorten(value)}. No generation setting has this name. {hint}")
            if name in _WITHOUT_EFFECT and value not in (None, getattr(type(self), name)):
                log_once(f"generation setting {name} has no effect: {_WITHOUT_EFFECT[name]}")
        changes = {name: value for name, value in changes.items() if value is not None}
        if _LENGTHS & set(changes):
            changes = {**dict.fromkeys(_LENGTHS), **changes}
        return replace(self, **changes)

    def ending_also(self, ids: Iterable[int]) -> GenerationConfig:
        """The same settings with further stop ids, such as those of a tokenizer or a task."""
        return self.updated(eos_token_id=sorted({*self.stop_ids, *ids}))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a sequence."""
        return tuple(self.eos_token_id or ())  # type: ignore[arg-type]

    @property
    def greedy(self) -> bool:
        """True when each step takes the most probable token."""
        return not self.do_sample or self.temperature == 0 or self.top_k == 1 or self.top_p == 0

    @property
    def edits_logits(self) -> bool:
        """True when logits are changed by rules that look at the ids so far."""
        plain = self.repetition_penalty == 1 and not (self.presence_penalty or self.frequency_penalty)
        return not plain or bool(self.no_repeat_ngram_size or self.bad_words_ids or self.logits_processor)

    @property
    def total_length(self) -> int | None:
        """The limit of prompt and new tokens together, None where only new tokens are limited."""
        if self.max_new_tokens is not None:
            return None
        return self.max_length if self.max_length is not None else self.max_decode_length

    def limits(self, prompt: Sequence[int], *, seq_length: int, row: int = 0) -> Limits:
        """The limits for new tokens after a prompt.

        Raises:
            GenerationError: the prompt is empty, or leaves no room.
        """
        size = len(prompt)
        if not size:
            raise GenerationError(f"prompt {row} is empty. Give at least one id")
        if size >= seq_length:
            raise GenerationError(
                f"prompt {row} has {size} tokens and the model's seq_length is {seq_length} for prompt and reply. "
                "Shorten the prompt, or raise model.model_config.seq_length"
            )
        total = self.total_length
        if total is not None and size >= total:
            raise GenerationError(
                f"prompt {row} has {size} tokens and max_length is {total}, prompt and reply together. "
                "Raise max_length, or give max_new_tokens, which counts the reply alone"
            )
        wanted = self.max_new_tokens if total is None else total - size
        wanted = seq_length - size if wanted is None else wanted
        if wanted > seq_length - size:
            log_once(f"generation stops at the model's seq_length {seq_length}, before the length that was asked for")
        return Limits(min(wanted, seq_length - size), max(self.min_new_tokens, self.min_length - size))

    def drawn_seed(self) -> int:
        """The seed, or a new one from NumPy's global generator."""
        return int(np.random.randint(2**31)) if self.seed is None else self.seed

    def _agree(self) -> None:
        if self.token_mask is not None and self.num_beams * self.num_return_sequences > 1:
            raise _wrong("token_mask", self.token_mask, "A mask follows one sequence: use no beams and one result.")
        if self.num_return_sequences > 1:
            if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
                raise _wrong(
                    "num_return_sequences", self.num_return_sequences, f"At most num_beams ({self.num_beams})."
                )
            if self.num_beams == 1 and self.greedy:
                raise _wrong(
                    "num_return_sequences", self.num_return_sequences, "Greedy search has one result: set do_sample."
                )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise _wrong("min_new_tokens", self.min_new_tokens, f"It exceeds max_new_tokens ({self.max_new_tokens}).")
        total = self.total_length
        if total is not None and self.min_length > total:
            raise _wrong("min_length", self.min_length, f"It exceeds max_length ({total}).")


def make_config(given: Any, defaults: GenerationConfig, **changes: Any) -> GenerationConfig:
    """The settings of a call: `given`, a whole GenerationConfig or a mapping over `defaults`, and then `changes`.

    Raises:
        GenerationError: `given` is something else, or a name or value is wrong.
    """
    if given is None:
        given = {}
    if isinstance(given, Mapping):
        return defaults.updated(
            **_drawn({**given, **{name: v for name, v in changes.items() if v is not None}}, defaults)
        )
    if not isinstance(given, GenerationConfig):
        raise GenerationError(f"generation_config: got {shorten(given)}. Give a GenerationConfig or a mapping")
    return given.updated(**changes)


def _drawn(changes: dict[str, Any], defaults: GenerationConfig) -> dict[str, Any]:
    """The changes of a call; with do_sample=True it samples, even where the defaults leave a single choice."""
    if changes.get("do_sample") is not True:
        return changes
    usual = {"top_k": (1, USUAL_TOP_K), "top_p": (0, 1.0), "temperature": (0, 1.0)}
    opened = {name: value for name, (single, value) in usual.items() if getattr(defaults, name) == single}
    return {**opened, **changes}


def _wrong(name: str, value: Any, fix: str) -> GenerationError:
    return GenerationError(f"{name}: got {shorten(value)}. {fix}")


def _integer(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, (bool, str)) or int(value) != value or value < least:
            raise _wrong(name, value, f"Use a whole number, {least} or more.")
        return int(value)

    return _readable(check)


def _number(least: float, most: float = math.inf, *, open_below: bool = False) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        number = float(value)
        fits = math.isfinite(number) and least <= number <= most and not (open_below and number == least)
        if isinstance(value, (bool, str)) or not fits:
            fix = f"Use a number {'above' if open_below else 'from'} {least:g}"
            fix = "Use a number" if least == -math.inf else fix
            raise _wrong(name, value, fix + ("." if most == math.inf else f" to {most:g}."))
        return number

    return _readable(check)


def _readable(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    def checked(name: str, value: Any) -> Any:
        try:
            return check(name, value)
        except (TypeError, OverflowError) as error:
            raise _wrong(name, value, "Use a number.") from error
        except GenerationError:
            raise
        except ValueError as error:
            raise _wrong(name, value, "Use a number.") from error

    return checked


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong(name, value, "Use True or False.")
    return bool(value)


def _early(name: str, value: Any) -> bool | str:
    if value != "never" and not isinstance(value, (bool, np.bool_)):
        raise _wrong(name, value, "Use True, False or 'never'.")
    return value


def _ids(name: str, value: Any) -> tuple[int, ...]:
    items = [value] if isinstance(value, (int, np.integer)) else value
    return tuple(_integer(0)(name, item) for item in _listed(name, items))


def _words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    words = tuple(_ids(name, word) for word in _listed(name, value or ()))
    if any(not word for word in words):
        raise _wrong(name, value, "A word has at least one id: leave empty ones out.")
    return words


def _biases(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else _listed(name, value)
    found = {}
    for pair in pairs:
        token, number = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (None, None)
        if token is None:
            raise _wrong(name, value, "Give a mapping from ids to numbers.")
        found[_integer(0)(name, token)] = _number(-math.inf)(name, number)
    return tuple(sorted(found.items()))


def _functions(name: str, value: Any) -> tuple[Callable, ...]:
    functions = (value,) if callable(value) else tuple(_listed(name, value or ()))
    if not all(callable(function) for function in functions):
        raise _wrong(name, value, "Give functions.")
    return functions


def _function(gives: str) -> Callable[[str, Any], Callable]:
    def check(name: str, value: Any) -> Callable:
        if not callable(value):
            raise _wrong(name, value, f"Give a function of the new ids that returns {gives}.")
        return value

    return check


def _listed(name: str, value: Any) -> list[Any]:
    if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
        raise _wrong(name, value, "Give a list.")
    return list(value)


_OPTIONAL = {*_LENGTHS, "eos_token_id", "bos_token_id", "stop", "seed", "token_mask"}
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(
        ("max_length", "max_new_tokens", "max_decode_length", "num_beams", "num_return_sequences"), _integer(1)
    ),
    **dict.fromkeys(
        (
            *("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size", "pad_token_id", "seed", "top_logprobs"),
            "prompt_lookup_num_tokens",
        ),
        _integer(0),
    ),
    "temperature": _number(0),
    "top_p": _number(0, 1),
    "repetition_penalty": _number(0, open_below=True),
    "length_penalty": _number(-math.inf),
    **dict.fromkeys(("do_sample", "use_past", "output_logprobs"), _flag),
    "early_stopping": _early,
    "eos_token_id": _ids,
    "presence_penalty": _number(-math.inf),
    "frequency_penalty": _number(-math.inf),
    "logit_bias": _biases,
    "bad_words_ids": _words,
    "stop": _function("True to end the sequence"),
    "token_mask": _function("a bit for each id"),
    "logits_processor": _functions,
}
