"""Perplexity of texts: `ppl`, by the rules of lm-evaluation-harness (rolling windows) or from ChatGLM's own prefix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.interface import Judged, Options, Results, Row, Score, Scored, Steps
from mindformers_glm.files import user_path


class Perplexity:
    """Texts of a .txt (one a line), .jsonl (column text) or .json file, or of all such files of a folder.

    Way `official`: P(text | [gMASK] sop), the right form for ChatGLM; longer texts go on in windows that see the ids
    before them. Way `lm-eval`: the harness with its stock class: no prefix, the first window after the end mark.
    Sums over all texts first: word_perplexity, byte_perplexity, bits_per_byte, token_perplexity.
    """

    name = "ppl"
    ways = ("official", "lm-eval")

    def __init__(self, tokenizer: Any, options: Options) -> None:
        way = options.way or "official"
        if way not in self.ways:
            raise ConfigError("--way", way, f"ppl is measured in these ways: {', '.join(self.ways)}.")
        if options.num_fewshot:
            raise ConfigError("--num_fewshot", options.num_fewshot, "ppl has no examples.")
        if options.data_dir is None:
            raise ConfigError("--data_dir", None, "Name a file or folder of texts: .txt, .jsonl or .json.")
        self.tokenizer, self.options, self.way_name, self.num_fewshot = tokenizer, options, way, 0
        self.window = options.max_length or 2048
        self.start = [tokenizer.eos_token_id] if way == "lm-eval" else list(tokenizer.get_prefix_tokens())

    def rows(self) -> list[Row]:
        """See Task."""
        path = user_path(self.options.data_dir)
        files = (
            [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in (".txt", ".jsonl", ".json"))
        )
        if not files:
            raise DataError(str(path), "there is no .txt, .jsonl or .json here", "Give --data_dir FILE or FOLDER")
        rows = []
        for file in files:
            texts = [text for text in _texts(file) if text.strip()][: self.options.limit]
            rows += [Row(file.stem, number, {"text": text}) for number, text in enumerate(texts)]
        if not rows:
            raise DataError(str(path), "there is no text in it", "Give another --data_dir")
        return rows

    def steps(self, row: Row) -> Steps:
        """See Task."""
        text, total, logprobs = row.fields["text"], 0.0, []
        ids = self.tokenizer.vocabulary.encode(text)
        for context, continuation in self.windows(ids):
            scored: Scored = yield Score(context, [continuation])
            total += scored.sums[0]
            logprobs += [float(value) for value in scored.logprobs[0]]
        figures = {
            "loglikelihood": total,
            "words": float(len(re.split(r"\s+", text))),
            "bytes": float(len(text.encode("utf-8"))),
            "tokens": float(len(ids)),
        }
        return Judged(figures, {"logprobs": [round(value, 6) for value in logprobs]})

    def windows(self, ids: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """See rolling_windows."""
        return rolling_windows(ids, self.start, self.window)

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """See Task."""
        subjects = {}
        for name in dict.fromkeys(row.subject for row, _ in judged):
            subjects[name] = _perplexities([verdict.figures for row, verdict in judged if row.subject == name])
        return Results(subjects, {"ppl": _perplexities([verdict.figures for _, verdict in judged])}, [])


def rolling_windows(ids: Sequence[int], start: list[int], window: int) -> list[tuple[list[int], list[int]]]:
    """Disjoint windows as (what is seen, what is scored); the first sees the start, the others one id before them.

    Source: lm-evaluation-harness, utils.get_rolling_token_windows with context_len 1 and make_disjoint_window.
    """
    first = min(window - len(start) + 1, len(ids))
    made = [(start, list(ids[:first]))]
    done = first
    while done < len(ids):
        end = min(done + window, len(ids))
        begin = max(end - window - 1, 0)  # as much as fits is seen, also of what was scored before
        made.append((list(ids[begin:done]), list(ids[done:end])))
        done = end
    return made


def _perplexities(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    total = {name: sum(row[name] for row in figures) for name in figures[0]}

    def each(unit: str) -> float:
        return float(np.exp(-total["loglikelihood"] / total[unit]))

    return {
        "word_perplexity": each("words"),
        "byte_perplexity": each("bytes"),
        "bits_per_byte": -total["loglikelihood"] / total["bytes"] / math.log(2),
        "token_perplexity": each("tokens"),
        "questions": float(len(figures)),
    }


def _texts(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".txt":
            return [line for line in text.split("\n") if line.strip()]
        values = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(str(file), f"it cannot be read ({error})", "Give UTF-8 text or JSON lines") from error
    found = [value.get("text") if isinstance(value, dict) else value for value in values]
    texts = [value for value in found if isinstance(value, str)]
    if len(texts) < len(found):
        raise DataError(str(file), "an object has no text under 'text'", 'Write {"text": "..."} a line')
    return texts
