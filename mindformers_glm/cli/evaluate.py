"""Evaluates a model: benchmarks of knowledge, perplexity, or a metric on a dataset.

    mindformers-glm evaluate --model MODEL --tasks ceval-valid,cmmlu,mmlu --data_dir FOLDER --output_dir OUT
    mindformers-glm evaluate --model MODEL --tasks ppl --data_dir texts.jsonl
    mindformers-glm evaluate --why OUT [--against OUT_BEFORE]
    mindformers-glm evaluate --config X.yaml --eval_dataset_dir dev.json        (run mode eval; see --config X --help)

Tasks, ways and what their figures mean: docs/evaluation.md. A run that was killed goes on from --output_dir. Several
processes share the questions with --dp_size N, or where a launcher started them (msrun ... python -m mindformers_glm
evaluate ...).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.cli.ranks import MOST, add_tp_size, start
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.evaluation.tasks.registered import TASKS, unknown_task
from mindformers_glm.files import user_path
from mindformers_glm.messages import told

_WAYS = ("lm-eval", "official", "chat", "modellink")


def parser() -> argparse.ArgumentParser:
    """The arguments of benchmarks."""
    p = Parser(description=__doc__)
    p.add_argument("--model", help="registered name, folder, weight file, run or YAML")
    p.add_argument("--adapter", help="LoRA on top: PEFT folder or checkpoint")
    p.add_argument("--lora_alpha", type=number(above=True), help="alpha of the adapter, where no file tells it")
    p.add_argument("--tokenizer", help="tokenizer instead of the model's own")
    p.add_argument("--tasks", type=_names, help=f"of {', '.join(TASKS)}, or YAML files, with commas between")
    p.add_argument("--subjects", type=_names, help="subjects or groups, with commas between (all)")
    p.add_argument("--way", choices=_WAYS, help="how questions are asked (the task's first way)")
    p.add_argument("--data_dir", help="the benchmark's folder, with dev/ and val/ or test/; or a file of texts")
    p.add_argument(
        "--num_fewshot", type=whole(0, 100), help="examples before each question (5; 0 where a way has none)"
    )
    p.add_argument("--batch_size", type=whole(1, 1024), default=8, help="questions at a time (8)")
    p.add_argument("--limit", type=whole(), help="rows of each subject (all)")
    p.add_argument("--output_dir", help="folder for results.json, samples.jsonl, CSV, Markdown, HTML")
    p.add_argument("--seq_length", type=whole(), help="longest prompt in tokens (the model's)")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="CPU, or what the YAML says")
    add_tp_size(p)
    p.add_argument("--dp_size", type=whole(1, MOST), default=1, help="processes (devices) that share the questions (1)")
    p.add_argument("--why", metavar="OUT", help="what usually explains a low score, and whether it is so in OUT")
    p.add_argument("--against", metavar="OUT", help="with --why: compares the two runs question by question")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; with --config it is run mode eval."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word == "--config" or word.startswith("--config=") for word in words):
        from mindformers_glm.cli.run import evaluate  # noqa: PLC0415

        return evaluate(words)
    chosen = parser().parse_args(words)
    from mindformers_glm.cli.report import report  # noqa: PLC0415

    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return report(_serve_ranks)
    if not chosen.why and (status := report(lambda: _check(chosen))):
        return status
    if not chosen.why:
        start(max(chosen.tp_size, chosen.dp_size), "evaluate", sys.argv[1:] if argv is None else argv)
    return report(lambda: _explain(chosen) if chosen.why else _evaluate(chosen))


def _check(chosen: argparse.Namespace) -> None:
    """Passes where the words can be right; nothing is loaded and no process started yet.

    Raises:
        ConfigError, DataError: they cannot.
    """
    for name in ("model", "tasks"):
        if not getattr(chosen, name):
            raise ConfigError(
                f"--{name}", None, f"Name it. Tasks: {', '.join(TASKS)}." if name == "tasks" else "Name it."
            )
    for name in chosen.tasks:
        if name not in TASKS and not name.endswith((".yaml", ".yml")):
            raise unknown_task(name)
    if chosen.tp_size > 1 and chosen.dp_size > 1:
        fix = "Both at once are for run mode eval: eval_task and parallel_config in a YAML."
        raise ConfigError("--dp_size", chosen.dp_size, fix)
    if chosen.data_dir and not user_path(chosen.data_dir).exists():
        raise DataError(chosen.data_dir, "there is no such file or folder", "Give another --data_dir")


def _evaluate(chosen: argparse.Namespace) -> None:
    os.environ.setdefault("GLOG_v", "3")
    from mindformers_glm.assembly.origin import origin_of  # noqa: PLC0415 - brings what computes
    from mindformers_glm.evaluation.benchmarks import evaluate  # noqa: PLC0415
    from mindformers_glm.serving.loading import load  # noqa: PLC0415

    origin, share = origin_of(chosen.model), _share(chosen)
    loaded = load(
        chosen.model,
        adapter=chosen.adapter,
        lora_alpha=chosen.lora_alpha,
        tokenizer=chosen.tokenizer,
        seq_length=chosen.seq_length or origin.length,
        device_target=chosen.device_target,
        tp_size=chosen.tp_size,
    )
    results = evaluate(
        loaded.engine,
        loaded.tokenizer,
        chosen.tasks,
        data_dir=chosen.data_dir,
        subjects=chosen.subjects,
        way=chosen.way,
        num_fewshot=chosen.num_fewshot,
        batch_size=chosen.batch_size,
        limit=chosen.limit,
        output_dir=chosen.output_dir,
        model_name=chosen.model,
        model_family=origin.family,
        weights=f"{origin.stamp} {chosen.adapter} {chosen.lora_alpha} {chosen.tokenizer}",
        share=share,
        shows_bar=sys.stderr.isatty() and share.rank == 0,
    )
    if share.rank == 0:
        _print(results, chosen.output_dir)


def _share(chosen: argparse.Namespace) -> Any:
    """The rows of this process: all of them, alone and where processes hold parts of one network.

    Raises:
        ConfigError: not so many processes were started.
    """
    from functools import partial  # noqa: PLC0415

    from mindformers_glm import runtime  # noqa: PLC0415
    from mindformers_glm.evaluation.share import ALL, Share  # noqa: PLC0415

    size = runtime.rank_size()
    if chosen.tp_size > 1 or size == 1:
        return ALL
    if chosen.dp_size not in (1, size):
        raise ConfigError("--dp_size", chosen.dp_size, f"{size} processes were started: it must be as many.")
    from mindformers_glm.parallel.collectives import gather_bytes  # noqa: PLC0415 - it needs MindSpore
    from mindformers_glm.parallel.mesh import make_mesh  # noqa: PLC0415

    runtime.set_up({"device_target": chosen.device_target or "CPU"}, use_parallel=True)
    axis = make_mesh(runtime.rank(), dp=size).data
    return Share(axis.rank, axis.size, partial(gather_bytes, axis))


def _serve_ranks() -> None:
    from mindformers_glm import runtime  # noqa: PLC0415

    runtime.serve_as_scheduler()


def _print(results: dict[str, Any], folder: str | None) -> None:
    for name, figures in results["groups"].items():
        shown = ", ".join(
            f"{key.removesuffix(',none')} {_figure(value)}" for key, value in figures.items() if key != "alias"
        )
        print(f"{name}: {shown}")
    for notes in results["notes"].values():
        for note in notes:
            print(f"note: {told(note)}")
    if folder:
        print(f"report: {Path(folder) / 'report.html'} (why a score is low: mindformers-glm evaluate --why {folder})")


def _explain(chosen: argparse.Namespace) -> None:
    from mindformers_glm.evaluation.comparison import as_page, as_text, compare  # noqa: PLC0415
    from mindformers_glm.evaluation.report import read_report  # noqa: PLC0415
    from mindformers_glm.evaluation.why import explain  # noqa: PLC0415
    from mindformers_glm.files import write_text  # noqa: PLC0415

    results, samples = read_report(chosen.why)
    for cause in explain(results, samples):
        print(f"{'YES' if cause.holds else 'no '}  {told(cause.name)}: {told(cause.seen)}")
        if cause.holds:
            print(f"     {told(cause.fix)}")
    if chosen.against:
        _, before = read_report(chosen.against)
        compared = compare(before, samples, places=(chosen.against, chosen.why))
        print(as_text(compared))
        page = Path(chosen.why) / "comparison.html"
        write_text(page, as_page(compared, (chosen.against, chosen.why)))
        print(f"wrote {page}")


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _names(text: str) -> list[str]:
    return [name for name in text.replace(" ", "").split(",") if name]
