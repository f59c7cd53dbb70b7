"""ADGEN: advertisements from keywords, greedy, compared with the written ones by ROUGE and BLEU-4 in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.data.loaders import ADGenDataLoader
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.interface import Judged, Options, Results, Row, Steps, Text
from mindformers_glm.evaluation.metrics import score_pair
from mindformers_glm.files import user_path
from mindformers_glm.tokenizers import Message, Renderer

_FILES = ("dev.json", "AdvertiseGen/dev.json", "dev.jsonl", "test.json")


class ADGen:
    """Rows of dev.json: content and summary.

    Way `official`: the prompts of MindFormers' and ChatGLM2's evaluation, [Round 1] for ChatGLM2 and the bare keywords
    for ChatGLM3; prompt and answer have 256 tokens together, as in MindFormers' YAML, whose figures these are. Way
    `chat`: the model's own chat format, and 256 new tokens. A blank answer is left out of the means, as there.
    """

    name = "adgen"
    ways = ("official", "chat")
    max_length = 256
    least_new = 64  # new tokens after a prompt that fills that length

    def __init__(self, tokenizer: Any, options: Options) -> None:
        way = options.way or "official"
        if way not in self.ways:
            raise ConfigError("--way", way, f"adgen is asked in these ways: {', '.join(self.ways)}.")
        if options.num_fewshot:
            raise ConfigError("--num_fewshot", options.num_fewshot, "adgen has no examples.")
        if options.subjects:
            raise ConfigError("--subjects", list(options.subjects), "adgen has no subjects.")
        if options.data_dir is None:
            raise ConfigError("--data_dir", None, "Name ADGEN's dev.json, or the folder that holds it.")
        self.tokenizer, self.options, self.way_name, self.num_fewshot = tokenizer, options, way, 0
        self.renderer = Renderer(tokenizer) if way == "chat" else None

    def rows(self) -> list[Row]:
        """See Task."""
        pairs = ADGenDataLoader(str(self._file()), phase="eval").rows[: self.options.limit]
        return [
            Row("dev", number, {"content": pair.prompt, "summary": pair.answer, "line": pair.line})
            for number, pair in enumerate(pairs)
        ]

    def steps(self, row: Row) -> Steps:
        """See Task."""
        content, ends = row.fields["content"], tuple(self.tokenizer.stop_ids)
        if self.renderer is not None:
            request = Text(list(self.renderer.prompt([Message("user", content)])), self.max_length, ends=ends)
        else:
            build = getattr(self.tokenizer, "build_prompt", None)
            prompt = list(self.tokenizer.encode(content if build is None else build(content)))
            fits = len(prompt) + self.least_new <= self.max_length
            request = Text(prompt, None, self.max_length, ends) if fits else Text(prompt, self.least_new, ends=ends)
        new_ids = yield request
        response = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        details = {"line": row.fields["line"], "target": row.fields["summary"], "response": response}
        figures = score_pair(response, row.fields["summary"]) if response.strip() else {}
        return Judged(figures, {**details, "response_ids": list(new_ids), "prompt_ids": request.prompt})

    def results(self, judged: Sequence[tuple[Row, Judged]]) -> Results:
        """See Task."""
        scored = [verdict.figures for _, verdict in judged if verdict.figures]
        means = {name: sum(row[name] for row in scored) / len(scored) for name in scored[0]} if scored else {}
        blank = len(judged) - len(scored)
        notes = [f"{blank} of {len(judged)} answers are blank and left out of the means"] if blank else []
        return Results({}, {self.name: {**means, "questions": len(judged)}}, notes)

    def _file(self) -> Path:
        path = user_path(self.options.data_dir)
        if path.is_file():
            return path
        found = next((path / name for name in _FILES if (path / name).is_file()), None)
        if found is None:
            raise DataError(str(path), f"there is no {_FILES[0]} here", "Give --data_dir: ADGEN's file or its folder")
        return found
