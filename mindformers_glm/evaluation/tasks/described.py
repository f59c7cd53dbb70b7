r"""A task that a user describes in a small YAML: rows of a file, a prompt, choices or a reference to compare with.

name: colours
data: colours.jsonl                     # .jsonl, .json or .csv, beside the YAML
prompt: "Question: {question}\nAnswer:"
choices: ["{a}", "{b}"]                 # or a column with a list: "{options}"
answer: "{label}"                       # number of the right choice from 0, its letter, or its text

# instead of choices: text is generated and compared
reference: "{answer}"
metric: exact_match                     # or f1, rouge, bleu, chrf, sacrebleu; or a list of them
max_new_tokens: 64
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_glm.config.loader import read_yaml
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.interface import Judged, Options, Results, Row, Scored, Steps, Text
from mindformers_glm.evaluation.tasks.ways import encoded
from mindformers_glm.evaluation.text_metrics import TEXT_METRICS
from mindformers_glm.files import user_path
from mindformers_glm.registry import unknown_key

_KEYS = ("name", "data", "prompt", "choices", "answer", "reference", "metric", "max_new_tokens")
_PLACE = re.compile(r"\{([^{}]+)\}")


class DescribedTask:
    """See the module; `name` of the YAML is the task's."""

    def __init__(self, file: str | Path, tokenizer: Any, options: Options) -> None:
        self.file, self.tokenizer, self.options = user_path(file), tokenizer, options
        spec = read_yaml(self.file)
        for key, value in spec.items():
            if key not in _KEYS:
                raise unknown_key(f"{file}: {key}", value, _KEYS)
        for key in ("data", "prompt"):
            if not isinstance(spec.get(key), str):
                raise ConfigError(f"{file}: {key}", spec.get(key), "This key must be given, as text.")
        if ("choices" in spec) == ("reference" in spec):
            raise ConfigError(f"{file}: choices", spec.get("choices"), "Give choices with answer, or a reference.")
        if "choices" in spec and "answer" not in spec:
            raise ConfigError(f"{file}: answer", None, "Say which choice is right.")
        metrics = spec.get("metric", "exact_match")
        self.spec, self.metrics = spec, metrics if isinstance(metrics, list) else [metrics]
        for metric in self.metrics:
            if metric not in TEXT_METRICS:
                raise ConfigError(f"{file}: metric", metric, f"Use one of {', '.join(TEXT_METRICS)}.")
            TEXT_METRICS[metric].row("a", "a")  # what is not installed shows now
        new = spec.get("max_new_tokens", 64)
        if not isinstance(new, int) or isinstance(new, bool) or new < 1:
            raise ConfigError(f"{file}: max_new_tokens", new, "Use 1 or more.")
        self.name = str(spec.get("name") or self.file.stem)
        self.way_name, self.num_fewshot = "described", 0

    def rows(self) -> list[Row]:
        """See Task."""
        path = user_path(self.spec["data"])
        path = path if path.is_absolute() else self.file.parent / path
        records = _records(path)[: self.options.limit]
        return [Row(path.stem, number, record) for number, record in enumerate(records)]

    def steps(self, row: Row) -> Steps:
        """See Task."""
        prompt = self._filled(self.spec["prompt"], row)
        if "choices" in self.spec:
            return self._choose(row, prompt)
        return self._write(row, prompt)

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """See Task."""
        names = list(dict.fromkeys(name for _, verdict in judged for name in verdict.figures))
        total = {name: float(np.mean([verdict.figures[name] for _, verdict in judged])) for name in names}
        pairs = [(verdict.details["prediction"].strip(), verdict.details["target"].strip()) for _, verdict in judged]
        for name in total:
            corpus = TEXT_METRICS[name].corpus if name in TEXT_METRICS else None
            if corpus is not None:
                total[name] = corpus(*map(list, zip(*pairs, strict=True)))
        return Results({}, {self.name: {**total, "questions": len(judged)}}, [])

    def _choose(self, row: Row, prompt: str) -> Steps:
        choices = self._choices(row)
        target = self._target(row, choices)
        request, cut = encoded(self.tokenizer, prompt, [f" {choice}" for choice in choices], self.options.max_length)
        scored: Scored = yield request
        lengths = np.array([max(len(choice), 1) for choice in choices])
        best, normed = int(np.argmax(scored.sums)), int(np.argmax(np.asarray(scored.sums) / lengths))
        details = {
            "target": choices[target],
            "prediction": choices[best],
            "loglikelihood": list(scored.sums),
            "cut": cut,
        }
        return Judged({"acc": float(best == target), "acc_norm": float(normed == target)}, details)

    def _write(self, row: Row, prompt: str) -> Steps:
        ids = [*self.tokenizer.get_prefix_tokens(), *self.tokenizer.vocabulary.encode(prompt)]
        new = self.spec.get("max_new_tokens", 64)
        new_ids = yield Text(ids, new, ends=tuple(getattr(self.tokenizer, "stop_ids", ())))
        response = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        reference = self._filled(self.spec["reference"], row)
        figures = {name: TEXT_METRICS[name].row(response.strip(), reference.strip()) for name in self.metrics}
        return Judged(figures, {"target": reference, "prediction": response})

    def _choices(self, row: Row) -> list[str]:
        given = self.spec["choices"]
        if isinstance(given, str):
            whole = _PLACE.fullmatch(given)
            found = row.fields.get(whole.group(1)) if whole else None
            if not isinstance(found, list):
                raise DataError(self._where(row), f"{given} is no list of choices", "Name the column that holds one")
            return [str(choice) for choice in found]
        return [self._filled(str(choice), row) for choice in given]

    def _target(self, row: Row, choices: list[str]) -> int:
        answer = self._filled(str(self.spec["answer"]), row)
        if answer.isdigit() and int(answer) < len(choices):
            return int(answer)
        if answer in choices:
            return choices.index(answer)
        if len(answer) == 1 and 0 <= ord(answer.upper()) - ord("A") < len(choices):
            return ord(answer.upper()) - ord("A")
        raise DataError(self._where(row), f"the answer {answer!r} is none of its choices", "Give its number from 0")

    def _filled(self, text: str, row: Row) -> str:
        def value(match: re.Match) -> str:
            if match.group(1) not in row.fields:
                columns = ", ".join(map(str, row.fields))
                raise DataError(self._where(row), f"there is no column {match.group(1)!r} ({columns})", "Mend the YAML")
            return str(row.fields[match.group(1)])

        return _PLACE.sub(value, text)

    def _where(self, row: Row) -> str:
        return f"{self.file.name}: row {row.number}"


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".csv":
            records = list(csv.DictReader(io.StringIO(text, newline="")))
        elif text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(str(path), f"it cannot be read ({error})", "Give .jsonl, .json or .csv in UTF-8") from error
    if not records or not all(isinstance(record, dict) for record in records):
        raise DataError(str(path), "it holds no objects", "Write one object a line")
    return records
