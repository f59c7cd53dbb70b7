"""Benchmarks of questions with four choices: rows from files, a way to ask, averages by question and by subject."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.interface import Judged, Options, Results, Row, Steps
from mindformers_glm.evaluation.tasks.table import find_file, questions, subject_table, wanted_subjects
from mindformers_glm.evaluation.tasks.ways import WAYS, Subject, Way, Wording
from mindformers_glm.files import user_path


class ChoiceTask:
    """What C-Eval, CMMLU and MMLU share. A subclass says its table, split, wording and ways."""

    name: str
    table: str  # of subjects/
    split: str
    wording: Wording
    ways: tuple[str, ...] = ("lm-eval", "chat")
    group: str  # the name of the average over everything
    has_answers = True

    def __init__(self, tokenizer: Any, options: Options) -> None:
        self.options, self.tokenizer = options, tokenizer
        self.known = subject_table(self.table)
        self.subjects = wanted_subjects(self.known, options.subjects)
        way = options.way or self.ways[0]
        if way not in self.ways:
            raise ConfigError("--way", way, f"{self.name} is asked in these ways: {', '.join(self.ways)}.")
        kind: Any = WAYS[way]
        self.num_fewshot = kind.default_fewshot if options.num_fewshot is None else options.num_fewshot
        self.way_name = way
        self.way: Way = kind(tokenizer, self.wording, max_length=options.max_length, num_fewshot=self.num_fewshot)
        if options.data_dir is None:
            raise ConfigError(
                "--data_dir", None, f"Name the folder of {self.name}, which holds dev/ and {self.split}/."
            )
        self.folder = user_path(options.data_dir)
        if not self.folder.is_dir():
            raise DataError(str(self.folder), "there is no such folder", "Give --data_dir: the benchmark's own folder")

    def rows(self) -> list[Row]:
        """See Task."""
        found = []
        for subject in self.subjects:
            for number, question in enumerate(self._questions(subject, self.split)[: self.options.limit]):
                found.append(Row(subject, number, question))
        return found

    def steps(self, row: Row) -> Steps:
        """See Task."""
        return self.way.steps(row.fields, self.shown_subjects[row.subject])

    @cached_property
    def shown_subjects(self) -> dict[str, Subject]:
        """Subjects by name, with the examples that prompts show."""
        return {
            name: Subject(name, self.known[name]["name"], self._examples(name) if self.num_fewshot else ())
            for name in self.subjects
        }

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """See Task."""
        subjects: dict[str, dict[str, float]] = {}
        for name in self.subjects:
            rights = [verdict.figures["acc"] for row, verdict in judged if row.subject == name]
            if rights:
                subjects[name] = {"acc": sum(rights) / len(rights), "questions": len(rights)}
        groups = {self.group: _average(subjects, list(subjects))}
        for group in dict.fromkeys(group for name in subjects for group in self.known[name]["groups"]):
            groups[group] = _average(subjects, [name for name in subjects if group in self.known[name]["groups"]])
        return Results(subjects, groups, self._notes(subjects))

    def _notes(self, subjects: dict[str, dict[str, float]]) -> list[str]:
        """What keeps these figures from being those of the whole benchmark."""
        missing = [name for name in self.known if name not in subjects]
        notes = []
        if missing:
            notes.append(f"{len(subjects)} of {len(self.known)} subjects: no average of the whole benchmark")
        short = [name for name in subjects if subjects[name]["questions"] != self.known[name].get(self.split)]
        if short:
            notes.append(
                f"{len(short)} subjects have another number of questions than the published {self.split} split"
            )
        return notes

    def _questions(self, subject: str, split: str) -> list[dict[str, Any]]:
        file = find_file(self.folder, split, subject)
        if file is None:
            fault = f"it has no {split} file of {subject} ({subject}.csv, {subject}_{split}.csv or .jsonl in {split}/)"
            raise DataError(str(self.folder), fault, "Copy the file there, or name other --subjects")
        return questions(file, needs_answer=self.has_answers or split == "dev")

    def _examples(self, subject: str) -> list[dict[str, Any]]:
        found = self._questions(subject, "dev")
        if len(found) < self.num_fewshot:
            fix = f"dev holds {len(found)} questions of {subject}: ask for fewer."
            raise ConfigError("--num_fewshot", self.num_fewshot, fix)
        if any("inputs_pretokenized" in question for question in found):
            raise DataError(str(self.folder), "the processed package has no examples", "Use --num_fewshot 0")
        return found


def _average(subjects: dict[str, dict[str, float]], names: list[str]) -> dict[str, float]:
    """By question, and by subject."""
    total = sum(subjects[name]["questions"] for name in names)
    right = sum(subjects[name]["acc"] * subjects[name]["questions"] for name in names)
    return {
        "acc": right / total,
        "acc_by_subject": sum(subjects[name]["acc"] for name in names) / len(names),
        "questions": total,
        "subjects": len(names),
    }
