"""What usually explains a low score, and whether it is so in an evaluation that was written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mindformers_glm.models.family import FAMILIES

_NEAR = 0.05  # a margin below it decides nothing
_ALWAYS = 0.8  # share of one letter that no benchmark has
_MANY = 0.1


class Cause(NamedTuple):
    """A usual cause: whether it is so here, what was seen, and what to do."""

    name: str
    holds: bool
    seen: str
    fix: str


def explain(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> list[Cause]:
    """Every cause that can be told from the files of a report, those that hold first."""
    found = [check(results, samples) for check in _CHECKS]
    return sorted((cause for cause in found if cause is not None), key=lambda cause: not cause.holds)


def _choice_ids(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    ids = [tuple(map(tuple, sample["choice_ids"])) for sample in samples if sample.get("choice_ids")]
    if not ids:
        return None
    long = sum(any(len(one) != 1 for one in row) for row in ids)
    same = sum(len(set(row)) < len(row) for row in ids)
    seen = f"{long} of {len(ids)} rows have a choice of several ids, {same} have two choices of the same id"
    fix = "Is this the tokenizer of the model? The letters must be one id each: --tokenizer"
    return Cause("choice ids are no single tokens", long + same > 0, seen, fix)


def _prefix(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    about = results.get("config", {})
    prefix, marks = about.get("prefix_ids"), about.get("mark_ids")
    prompts = [sample["prompt_ids"] for sample in samples if sample.get("prompt_ids")]
    if not prompts or not (prefix or about.get("model_family")):
        return None
    name = "prefix tokens missing or twice"
    fix = "The prefix stands once: give texts without [gMASK] sop, and no ids that were encoded before"
    if not prefix:
        seen = f"the tokenizer puts nothing before {len(prompts)} prompts of a {about['model_family']}"
        return Cause(name, True, seen, "Every GLM begins with [gMASK] sop: --tokenizer of the model")
    missing = twice = written = 0
    for ids in prompts:
        count = sum(list(ids[at : at + len(prefix)]) == prefix for at in range(min(len(ids), 4 * len(prefix))))
        missing += list(ids[: len(prefix)]) != prefix
        twice += count > 1
        written += bool(marks) and _holds(ids, marks, 64)
    seen = f"of {len(prompts)} prompts {missing} do not begin with {prefix}, {twice} hold it twice"
    seen += f", {written} have [gMASK] as text" if written else ""
    return Cause(name, missing + twice + written > 0, seen, fix)


def _template(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    about = results.get("config", {})
    model, tokenizer, role = about.get("model_family"), about.get("tokenizer"), about.get("role_ids")
    if not tokenizer:
        return None
    other = bool(model) and _tokenizer_of(model) not in (None, tokenizer)
    prompts = [sample["prompt_ids"] for sample in samples if sample.get("prompt_ids")]
    rounds = about.get("round_ids")
    wrong = 0
    for ids in prompts:
        has_rounds = bool(rounds) and _holds(ids, rounds)
        has_roles = bool(role) and bool(set(role) & set(ids))
        wrong += (has_rounds and bool(role)) or (has_roles and not role)
    seen = f"tokenizer {tokenizer}" + (f", model {model}" if model else "")
    seen += f"; {wrong} of {len(prompts)} prompts are in the chat format of another family"
    fix = "ChatGLM2 is asked in [Round n], ChatGLM3 with roles: --tokenizer of the model, --way chat"
    return Cause("template of another family", other or wrong > 0, seen, fix)


def _cut(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    told = [sample for sample in samples if "cut" in sample]
    if not told:
        return None
    count = sum(bool(sample["cut"]) for sample in told)
    fix = "Raise --seq_length, or ask with fewer examples: --num_fewshot"
    return Cause("prompts were cut", count > 0, f"{count} of {len(told)} prompts were cut to fit", fix)


def _margins(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    margins = [sample["margin"] for sample in samples if "margin" in sample]
    if not margins:
        return None
    near = sum(margin < _NEAR for margin in margins)
    seen = (
        f"{near} of {len(margins)} answers lead by less than {_NEAR} (median {sorted(margins)[len(margins) // 2]:.3f})"
    )
    fix = "Weights that are random, of another base, or broken by a conversion look so: mindformers-glm inspect MODEL"
    return Cause("margins near zero", near > len(margins) / 2, seen, fix)


def _one_letter(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    letters = Counter(sample["prediction"] for sample in _of_letters(samples) if sample["prediction"])
    total = sum(letters.values())
    if total < 8:
        return None
    letter, count = letters.most_common(1)[0]
    fix = (
        "A bias to one letter comes from prompts or formats the model was not trained on: try --way chat, more examples"
    )
    return Cause("one letter always", count > _ALWAYS * total, f"{letter} in {count} of {total} answers", fix)


def _no_letter(results: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Cause | None:
    told = _of_letters(samples)
    if not told:
        return None
    none = sum(sample["prediction"] not in ("A", "B", "C", "D") for sample in told)
    fix = "Look at `response` in samples.jsonl: does the model answer in another form, or stop too soon?"
    return Cause(
        "no letter in the answer", none > _MANY * len(told), f"{none} of {len(told)} answers name no choice", fix
    )


def _of_letters(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions whose answer is a letter, known or not."""
    return [one for one in samples if "prediction" in one and one.get("target", "") in (None, "A", "B", "C", "D")]


def _tokenizer_of(family: str) -> str | None:
    """The class of a family's tokenizer; None for a name that nobody has."""
    return next((known.tokenizer for known in FAMILIES if known.name == family), None)


def _holds(ids: Sequence[int], part: Sequence[int], first: int = 12) -> bool:
    """Whether a part stands among the first ids."""
    return any(list(ids[at : at + len(part)]) == list(part) for at in range(min(len(ids), first)))


_CHECKS: tuple[Callable[[dict[str, Any], Sequence[dict[str, Any]]], Cause | None], ...] = (
    _choice_ids,
    _prefix,
    _template,
    _cut,
    _margins,
    _one_letter,
    _no_letter,
)
