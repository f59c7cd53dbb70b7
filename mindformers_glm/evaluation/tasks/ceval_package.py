"""The processed C-Eval package of ChatGLM2-6B (val/<Category>/<subject>.jsonl), file by file, asked in its own way.

Source: evaluate_ceval.py of ChatGLM2-6B, which the ATB guide's --mode precision_dataset repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.errors import DataError
from mindformers_glm.evaluation.interface import Judged, Results, Row, Steps
from mindformers_glm.evaluation.tasks.table import questions
from mindformers_glm.evaluation.tasks.ways import Official, Subject, Wording
from mindformers_glm.files import user_path


class CEvalPackage:
    """Every .jsonl below FOLDER/val; a row's subject is the path of its file.

    Raises:
        DataError: there is no such folder, or no file in it.
    """

    name = "ceval-package"

    def __init__(self, tokenizer: Any, folder: str | Path, *, limit: int | None = None) -> None:
        self.folder, self.limit = user_path(folder), limit
        self.files = sorted((self.folder / "val").glob("**/*.jsonl"))
        if not self.files:
            fix = "Name the folder of the processed package, with val/<Category>/<subject>.jsonl in it"
            raise DataError(str(self.folder), "it has no .jsonl below val/", fix)
        self.way = Official(tokenizer, Wording("", ""), max_length=None, num_fewshot=0)

    def rows(self) -> Sequence[Row]:
        """See Task."""
        return [
            Row(str(file), number, question)
            for file in self.files
            for number, question in enumerate(questions(file)[: self.limit])
        ]

    def steps(self, row: Row) -> Steps:
        """See Task."""
        return self.way.steps(row.fields, Subject(row.subject, "", ()))

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """Accuracy of each file, and of all questions."""
        found: dict[str, list[float]] = {}
        for row, verdict in judged:
            found.setdefault(row.subject, []).append(verdict.figures["acc"])
        subjects = {name: {"acc": sum(all_) / len(all_), "questions": len(all_)} for name, all_ in found.items()}
        right = sum(sum(all_) for all_ in found.values())
        return Results(subjects, {self.name: {"acc": right / len(judged), "questions": len(judged)}}, [])
