"""Run modes eval and predict on a CPU without MindSpore: the same results, by the kernels from the weight files."""

from __future__ import annotations

from functools import partial
from typing import Any

from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.assembly.held_files import NeedsMindSpore
from mindformers_glm.assembly.run_held import held_of_run, reasons_of
from mindformers_glm.assembly.run_tokenizer import build_tokenizer
from mindformers_glm.config import RunConfig
from mindformers_glm.evaluation.metrics import PerplexityMetric
from mindformers_glm.evaluation.runner import mean_loss
from mindformers_glm.evaluation.scored_loss import can_score, scored_loss
from mindformers_glm.evaluation.share import ALL
from mindformers_glm.files import user_path
from mindformers_glm.tasks.answers import answer, judge
from mindformers_glm.tasks.benchmarks import Benchmarks
from mindformers_glm.tasks.evaluation_data import EvaluationData

MODES = ("eval", "predict")
_TRAINER = "CausalLanguageModelingTrainer"


def check_plain(config: RunConfig) -> None:
    """Passes where `run_plainly` can do what a configuration asks for; no weight is read.

    Raises:
        NeedsMindSpore: it cannot. `run_plainly` raises it too, where rows are several texts.
    """
    reasons = [f"run_mode is {config.run_mode}"] if config.run_mode not in MODES else reasons_of(config)
    if config.trainer.type != _TRAINER:
        reasons.append(f"the trainer is a {config.trainer.type}")
    if reasons:
        raise NeedsMindSpore(*reasons)


def run_plainly(config: RunConfig) -> Any:
    """What the run mode returns: results of run mode predict, figures of run mode eval.

    Raises:
        UserError: weights, tokenizer, data or prompts do not fit.
    """
    return _evaluate(config) if config.run_mode == "eval" else _predict(config)


def _predict(config: RunConfig) -> list[dict[str, Any]]:
    """A result for each prompt of `input_data`, or of the evaluation data where there is none; also on disk."""
    prompts = EvaluationData(config).prompts(config.metrics[0].build() if config.metrics else None)
    tokenizer = build_tokenizer(config)
    return answer(config, held_engine(held_of_run(config), {}), tokenizer, prompts)


def _evaluate(config: RunConfig) -> dict[str, float]:
    """Figures of the benchmarks, or of the metrics on the evaluation data; its faults show before weights are read."""
    tokenizer, output = build_tokenizer(config), user_path(config.output_dir)
    if config.eval_task is not None:
        benchmarks = Benchmarks(config)
        config = benchmarks.lengthened
        benchmarks.check(tokenizer)
        return benchmarks.figures(held_engine(held_of_run(config), {}), tokenizer, ALL, output_dir=output)
    data, metrics = EvaluationData(config), [spec.build() for spec in config.metrics]
    for metric in metrics:
        rows = data.of(metric)
        if isinstance(metric, PerplexityMetric) and not all(map(can_score, rows.batches(0))):
            raise NeedsMindSpore(f"{PerplexityMetric.__name__} is asked of rows that are several texts")
    engine = held_engine(held_of_run(config), {})
    figures: dict[str, float] = {}
    for metric in metrics:
        if isinstance(metric, PerplexityMetric):
            figures |= mean_loss(partial(scored_loss, engine), data.of(metric), metric).scores
        else:
            figures |= judge(engine, tokenizer, data.of(metric), metric, output=output)
    return figures
