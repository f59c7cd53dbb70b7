"""Files of an evaluation: results.json in lm-evaluation-harness' form, samples.jsonl, CSV, Markdown, one HTML page."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import DataError
from mindformers_glm.evaluation.answering import Answered
from mindformers_glm.evaluation.interface import Results, Task
from mindformers_glm.files import atomic_write, user_path, write_text

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#1d2733}
table{border-collapse:collapse;width:100%}td,th{padding:.25em .6em;border-bottom:1px solid #dde3ea;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#e8edf3;height:.8em;min-width:12em}
.bar i{display:block;height:100%;background:#2f7bbf}.lost i{background:#c25b4e}h2{margin-top:2em}p.note{color:#7a5b00}
@media (prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea}td,th{border-color:#333b45}
.bar{background:#2a313a}}"""
_LONE = ("acc", "byte_perplexity", "rouge-l", "answered")  # the figure that a chart shows
_WHOLE = {"acc": 1.0, "rouge-l": 100.0}  # where a bar is full; elsewhere at the largest figure


class TaskRun(NamedTuple):
    """One task that was run."""

    task: Task
    answered: Answered
    results: Results
    config: dict[str, Any]


def write_report(folder: str | Path, runs: Sequence[TaskRun], about: dict[str, Any]) -> list[Path]:
    """Writes the files of a report into a folder and returns their paths. `about` says model, versions, settings."""
    folder = Path(folder)
    results = as_json(runs, about)
    write_text(folder / "results.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    with atomic_write(folder / "samples.jsonl", "w") as file:
        for run in runs:
            for row, verdict in run.answered.judged:
                fields = {"task": run.task.name, "subject": row.subject, "doc_id": row.number}
                file.write(json.dumps({**fields, **verdict.figures, **verdict.details}, ensure_ascii=False) + "\n")
    write_text(folder / "results.csv", as_csv(runs))
    write_text(folder / "results.md", as_markdown(runs, about))
    write_text(folder / "report.html", as_html(runs, about))
    written = [folder / name for name in ("results.json", "samples.jsonl", "results.csv", "results.md", "report.html")]
    for run in runs:
        extra = getattr(run.task, "write", None)
        written += [] if extra is None else extra(run.answered.judged, folder)
    return written


def as_json(runs: Sequence[TaskRun], about: dict[str, Any]) -> dict[str, Any]:
    """{"results": {task_subject: {"acc,none": ...}}, "groups", "configs", "versions", "n-shot", "n-samples", ...}."""
    results: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    for run in runs:
        for name, figures in run.results.subjects.items():
            results[f"{run.task.name}_{name}"] = _harness(f"{run.task.name}_{name}", figures)
            count = int(figures.get("questions", 0))
            samples[f"{run.task.name}_{name}"] = {"original": count, "effective": count}
        for name, figures in run.results.groups.items():
            key = name if name.startswith(run.task.name) else f"{run.task.name}_{_key(name)}"
            groups[key] = results[key] = _harness(key, figures)
    return {
        "results": results,
        "groups": groups,
        "configs": {run.task.name: run.config for run in runs},
        "versions": dict.fromkeys([run.task.name for run in runs], 1),
        "n-shot": {run.task.name: run.config.get("num_fewshot", 0) for run in runs},
        "n-samples": samples,
        "notes": {run.task.name: run.results.notes for run in runs},
        "config": about,
    }


def as_csv(runs: Sequence[TaskRun]) -> str:
    """A row for each group and subject: task, kind, name, then a column for each figure."""
    rows = _rows(runs)
    names = list(dict.fromkeys(name for *_, figures in rows for name in figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "kind", "name", *names])
    for task, kind, name, figures in rows:
        writer.writerow([task, kind, name, *(figures.get(figure, "") for figure in names)])
    return text.getvalue()


def as_markdown(runs: Sequence[TaskRun], about: dict[str, Any]) -> str:
    """Tables of groups and subjects."""
    lines = [f"# {about.get('model', 'model')}", ""]
    for run in runs:
        lines += [f"## {run.task.name} ({_how(run)})", "", *(f"- {note}" for note in run.results.notes), ""]
        for title, table in (("group", run.results.groups), ("subject", run.results.subjects)):
            names = list(dict.fromkeys(name for figures in table.values() for name in figures))
            lines += [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            for name, figures in table.items():
                lines.append(f"| {name} | " + " | ".join(_shown(figures.get(figure)) for figure in names) + " |")
            lines.append("")
    return "\n".join(lines)


def as_html(runs: Sequence[TaskRun], about: dict[str, Any]) -> str:
    """One page that needs no other file: charts by group and subject."""
    parts = [f"<h1>{html.escape(str(about.get('model', 'model')))}</h1>"]
    for run in runs:
        parts.append(f"<h2>{html.escape(run.task.name)}</h2><p>{html.escape(_how(run))}</p>")
        parts += [f'<p class="note">{html.escape(note)}</p>' for note in run.results.notes]
        parts += [chart("Groups", run.results.groups), chart("Subjects", run.results.subjects)]
    settings = html.escape(json.dumps(about, ensure_ascii=False, indent=1))
    parts.append(f"<details><summary>Settings</summary><pre>{settings}</pre></details>")
    return page(str(about.get("model", "evaluation")), "\n".join(parts))


def page(title: str, body: str) -> str:
    """A whole HTML page around a body; nothing is loaded from elsewhere."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def chart(title: str, table: dict[str, dict[str, float]]) -> str:
    """A table with a bar in each row for the figure that matters."""
    if not table:
        return ""
    shown = next((name for name in _LONE if any(name in figures for figures in table.values())), None)
    names = list(dict.fromkeys(name for figures in table.values() for name in figures))
    largest = max((figures.get(shown or "", 0.0) for figures in table.values()), default=1.0) or 1.0
    top = _WHOLE.get(shown or "", largest)
    head = "".join(f'<th class="n">{html.escape(name)}</th>' for name in names)
    rows = []
    for name, figures in sorted(table.items(), key=lambda item: -item[1].get(shown or "", 0.0)):
        width = max(0.0, min(100.0, 100 * figures.get(shown or "", 0.0) / top))
        cells = "".join(f'<td class="n">{_shown(figures.get(figure))}</td>' for figure in names)
        bar = f'<td><div class="bar"><i style="width:{width:.1f}%"></i></div></td>'
        rows.append(f"<tr><td>{html.escape(name)}</td>{bar}{cells}</tr>")
    return f"<h3>{title}</h3><table><tr><th>name</th><th>{shown or ''}</th>{head}</tr>{''.join(rows)}</table>"


def read_report(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """results.json and samples.jsonl of a folder that `write_report` wrote.

    Raises:
        DataError: they are not there, or not ours.
    """
    folder = user_path(folder)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
        samples = [json.loads(line) for line in lines if line]
        if not isinstance(results, dict) or not isinstance(results.get("configs"), dict):
            raise ValueError("results.json has no configs")
    except (OSError, ValueError, RecursionError) as error:
        fix = "Name the --output_dir of `mindformers-glm evaluate --tasks ...`"
        raise DataError(str(folder), f"it holds no evaluation ({error})", fix) from error
    return results, samples


def _harness(alias: str, figures: dict[str, float]) -> dict[str, Any]:
    named = {f"{name},none": value for name, value in figures.items() if name not in ("questions", "subjects")}
    if "acc" in figures and not alias.startswith("mmlu"):
        named["acc_norm,none"] = figures["acc"]  # the choices "A" to "D" have one character each
    return {"alias": alias, **named}


def _key(name: str) -> str:
    return name.lower().replace(" ", "_")


def _how(run: TaskRun) -> str:
    return f"way {run.config.get('way')}, {run.config.get('num_fewshot', 0)} examples, {len(run.answered.judged)} rows"


def _rows(runs: Sequence[TaskRun]) -> list[tuple[str, str, str, dict[str, float]]]:
    found = []
    for run in runs:
        found += [(run.task.name, "group", name, figures) for name, figures in run.results.groups.items()]
        found += [(run.task.name, "subject", name, figures) for name, figures in run.results.subjects.items()]
    return found


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) and not value.is_integer() else f"{value:g}"
