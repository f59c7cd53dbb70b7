"""C-Eval: 52 subjects of Chinese examinations in four categories, with a hard part. https://cevalbenchmark.com"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mindformers_glm.evaluation.interface import Judged, Results, Row
from mindformers_glm.evaluation.tasks.choice import ChoiceTask
from mindformers_glm.evaluation.tasks.ways import Wording
from mindformers_glm.files import write_text

_WORDING = Wording("以下是中国关于{title}的单项选择题，请选出其中的正确答案。\n\n", "答案：")


class CEvalValid(ChoiceTask):
    """The val split, whose answers are known: 1,346 questions."""

    name, table, split, group, wording = "ceval-valid", "ceval", "val", "ceval-valid", _WORDING
    ways = ("lm-eval", "official", "chat")


class CEvalTest(ChoiceTask):
    """The test split, 12,342 questions without answers: what is made is the file to submit."""

    name, table, split, group, wording = "ceval-test", "ceval", "test", "ceval-test", _WORDING
    ways = ("lm-eval", "official", "chat")
    has_answers = False

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """No score: how many questions have an answer."""
        made = submission(judged)
        subjects: dict[str, dict[str, float]] = {
            name: {"questions": len(letters), "answered": _count(letters)} for name, letters in made.items()
        }
        total: dict[str, float] = {
            "questions": sum(map(len, made.values())),
            "answered": sum(map(_count, made.values())),
        }
        note = "test has no published answers: submit submission.json at cevalbenchmark.com"
        return Results(subjects, {self.group: total}, [note, *super()._notes(subjects)])

    def write(self, judged: Sequence[tuple[Row, Judged]], folder: Path) -> list[Path]:
        """Writes submission.json; returns its path."""
        path = folder / "submission.json"
        write_text(path, json.dumps(submission(judged), ensure_ascii=False, indent=4) + "\n")
        return [path]


def submission(judged: Sequence[tuple[Row, Judged]]) -> dict[str, dict[str, str]]:
    """{subject: {id: letter}} of every question."""
    made: dict[str, dict[str, str]] = {}
    for row, verdict in judged:
        made.setdefault(row.subject, {})[str(row.fields["id"])] = verdict.details["prediction"] or ""
    return made


def _count(letters: dict[str, str]) -> int:
    return sum(letter != "" for letter in letters.values())
