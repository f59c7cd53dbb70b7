"""What is evaluated: benchmarks, or a dataset whose phase fits its metric (prompts alone, or with their answers)."""

from __future__ import annotations

from typing import Any

from mindformers_glm.config.legacy import lookup

BENCHMARKS = ("ceval-valid", "ceval-test", "cmmlu", "mmlu", "adgen", "ppl")  # the tasks of evaluation/tasks
_LEAST_ANSWER = 3
_TEXTS = ("ADGENMetric", "EmF1Metric", "ChrfMetric", "SacreBleuMetric", "ExactMatchMetric")
_PHASES = {"PerplexityMetric": "train", **dict.fromkeys(_TEXTS, "eval")}


def benchmark_of_metric(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with a `metric` whose type is a benchmark's name under `eval_task`, which says the same."""
    metric = values.get("metric")
    metric = metric[0] if isinstance(metric, list) and len(metric) == 1 else metric
    kind = metric.get("type") if isinstance(metric, dict) else metric
    if not isinstance(kind, str) or kind not in BENCHMARKS or values.get("eval_task") is not None:
        return values
    options = {key: value for key, value in metric.items() if key != "type"} if isinstance(metric, dict) else {}
    kept = {key: value for key, value in values.items() if key != "metric"}
    return {**kept, "eval_task": {"tasks": kind, **options}}


def fit_to_metric(values: dict[str, Any]) -> list[str]:
    """Sets `eval_dataset.data_loader.phase` to what the one metric reads; returns notes.

    The documented section of evaluation while training says `phase: eval` whatever the metric; files with
    PerplexityMetric say `phase: train`, with which a metric of generated texts would be given the answers. In a run
    that trains, answers are also cut to what the network takes.
    """
    if values.get("eval_task") is not None:
        return ["eval_task is what is evaluated; metric and eval_dataset are not."] if values.get("metric") else []
    section, mode = values.get("eval_dataset"), values.get("run_mode")
    trains = mode in ("train", "finetune")
    metric = values.get("metric")
    kinds = [lookup(spec, "type") for spec in (metric if isinstance(metric, list) else [metric])]
    if not isinstance(section, dict) or not (mode == "eval" or trains):
        return []
    if (lookup(values, "eval_dataset_task.type") or "KeyWordGenDataset") != "KeyWordGenDataset":
        return []
    if trains and not values.get("do_eval"):
        return []
    notes = []
    loader, phase = section.get("data_loader"), _PHASES.get(str(kinds[0])) if len(kinds) == 1 else None
    if phase and isinstance(loader, dict) and loader.get("phase") in ("train", "eval") and loader["phase"] != phase:
        reads = "prompts with their answers" if phase == "train" else "prompts without their answers"
        notes.append(f"eval_dataset.data_loader.phase: {phase} replaces {loader['phase']}: {kinds[0]} reads {reads}.")
        loader["phase"] = phase
    if "PerplexityMetric" not in kinds:
        return notes
    source, target = section.get("max_source_length"), section.get("max_target_length")
    length = lookup(values, "model.model_config.seq_length")
    if not trains or not all(isinstance(number, int) for number in (source, target, length)):
        return notes
    room = length - source - 1
    if target > room >= _LEAST_ANSWER:
        section["max_target_length"] = room
        notes.append(
            f"eval_dataset.max_target_length: {room} replaces {target}: {source} + {room} + 1 is "
            f"model.model_config.seq_length ({length})."
        )
    return notes
