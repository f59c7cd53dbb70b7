"""A model before and after tuning: its answers side by side, and its perplexity on general text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.evaluation.answering import answer
from mindformers_glm.evaluation.harness import Harness
from mindformers_glm.evaluation.interface import Options
from mindformers_glm.evaluation.tasks.perplexity import Perplexity
from mindformers_glm.files import parse_json, write_text
from mindformers_glm.generation.engine import Engine

# Sentences of our own, of the kind that pretraining knows and tuning data hardly: what a tuned model still knows of
# them shows in its perplexity.
GENERAL = (
    "春天来了，公园里的树长出了新的叶子，孩子们在草地上放风筝，老人坐在长椅上聊天。",
    "水在标准大气压下加热到一百摄氏度就会沸腾，变成水蒸气；冷却之后又凝结成水。",
    "他把书放回书架，关上灯，轻轻走出图书馆，外面已经下起了小雨。",
    "地球绕太阳转一圈大约需要三百六十五天，月亮绕地球转一圈大约需要一个月。",
    "要做一碗西红柿鸡蛋面，先把鸡蛋炒熟，再放西红柿，加水煮开以后下面条。",
    "The train left the station a few minutes late, and most of the passengers were already asleep.",
    "Water freezes at zero degrees Celsius, and ice floats because it is less dense than water.",
    "She opened the window, looked at the garden, and wrote the first line of her letter.",
    "If you want to learn a language, read a little every day and talk to people whenever you can.",
    "A program is a list of instructions; the computer follows them one after another.",
)


class Answers(NamedTuple):
    """What one model says: a text for each prompt, and the perplexity of a token of the general text."""

    name: str
    texts: list[str]
    perplexity: float


def ask(
    name: str,
    engine: Engine,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    texts: str | Path,
    chat: bool = False,
    max_new_tokens: int = 128,
    batch_size: int = 8,
) -> Answers:
    """Greedy answers of a model and its perplexity on the texts of a file or folder (see the task `ppl`).

    With `chat` each prompt is a user's message in the model's own format; otherwise it stands as it is written.

    Raises:
        DataError: the texts cannot be read.
        GenerationError: a prompt leaves no room for an answer.
    """
    harness = Harness(engine, tokenizer, batch_size=batch_size, max_gen_toks=max_new_tokens)
    contexts = [harness.chat([{"role": "user", "content": prompt}]) if chat else prompt for prompt in prompts]
    task = Perplexity(tokenizer, Options(data_dir=texts, max_length=engine.max_length))
    rows = answer(task, engine, batch_size=batch_size).judged
    figure = task.results(rows).groups["ppl"]["token_perplexity"]
    return Answers(name, harness.texts([(context, {}) for context in contexts]), figure)


def read_prompts(text: str, suffix: str) -> tuple[list[str], list[str | None]]:
    r"""Prompts of a file's text, and the reference of each where it has one.

    JSON lines and JSON lists hold texts or objects: `prompt`, `content`, `question` or `instruction` (with `input`),
    and `answer`, `summary`, `response` or `output`. Any other file is a prompt a line; \n in it is a line break.

    Raises:
        ValueError: it is not JSON, or an object has no prompt.
    """
    if suffix not in (".json", ".jsonl"):
        prompts = [line.replace("\\n", "\n") for line in text.split("\n") if line.strip()]
        return prompts, [None] * len(prompts)
    if text.lstrip().startswith("["):
        values = parse_json(text)
    else:
        values = [parse_json(line) for line in text.split("\n") if line.strip()]
    pairs = [_pair(value, number) for number, value in enumerate(values, 1)]
    return [prompt for prompt, _ in pairs], [reference for _, reference in pairs]


def as_text(before: Answers, after: Answers, prompts: Sequence[str], references: Sequence[str | None]) -> str:
    """The two for a terminal: prompt by prompt, then the perplexities."""
    lines = []
    for number, (prompt, reference) in enumerate(zip(prompts, references, strict=True)):
        lines += [
            f"[{number + 1}] {prompt}",
            f"    before: {before.texts[number]}",
            f"    after:  {after.texts[number]}",
        ]
        lines += [] if reference is None else [f"    wanted: {reference}"]
    return "\n".join([*lines, told(before, after)])


def told(before: Answers, after: Answers) -> str:
    """One sentence about the general text."""
    change = after.perplexity / before.perplexity - 1
    verdict = "little was forgotten" if change < 0.1 else "some was forgotten" if change < 1 else "much was forgotten"
    return (
        f"perplexity on general text: {before.perplexity:.4g} before, {after.perplexity:.4g} after ({change:+.1%}): "
        f"{verdict}"
    )


def as_values(
    before: Answers, after: Answers, prompts: Sequence[str], references: Sequence[str | None]
) -> dict[str, Any]:
    """The two as plain values, for JSON."""
    rows = zip(prompts, before.texts, after.texts, references, strict=True)
    return {
        "models": {"before": before.name, "after": after.name},
        "perplexity": {"before": before.perplexity, "after": after.perplexity},
        "answers": [
            {"prompt": prompt, "before": first, "after": second, "reference": reference}
            for prompt, first, second, reference in rows
        ],
    }


def write_general(path: Path) -> Path:
    """The general text as a file for the task `ppl`, a sentence a line."""
    write_text(path, "\n".join(GENERAL) + "\n")
    return path


def _pair(value: Any, number: int) -> tuple[str, str | None]:
    if isinstance(value, str):
        return value, None
    named = value if isinstance(value, dict) else {}
    prompt = next((named[key] for key in ("prompt", "content", "question", "instruction") if key in named), None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"object {number} has no text under prompt, content, question or instruction")
    if named.get("input") and "instruction" in named:
        prompt = f"{prompt}\n{named['input']}"
    reference = next((named[key] for key in ("answer", "summary", "response", "output") if key in named), None)
    return prompt, reference if isinstance(reference, str) else None
