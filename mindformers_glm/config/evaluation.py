"""What an evaluation by loss needs of its dataset, set where a file says what generated texts are compared with."""

from __future__ import annotations

from typing import Any

from mindformers_glm.config.legacy import lookup

_LEAST_ANSWER = 3


def fit_to_loss(values: dict[str, Any]) -> list[str]:
    """Makes `eval_dataset` rows of prompt and answer, as long as the network, for PerplexityMetric; returns notes.

    The documented section of evaluation while training says `phase: eval`, which makes prompts without answers and is
    for metrics of generated text. In a run that trains, answers are also cut to what the network takes.
    """
    section, mode = values.get("eval_dataset"), values.get("run_mode")
    trains = mode in ("train", "finetune")
    metric = values.get("metric")
    kinds = [lookup(spec, "type") for spec in (metric if isinstance(metric, list) else [metric])]
    if not isinstance(section, dict) or "PerplexityMetric" not in kinds or not (mode == "eval" or trains):
        return []
    if (lookup(values, "eval_dataset_task.type") or "KeyWordGenDataset") != "KeyWordGenDataset":
        return []
    if trains and not values.get("do_eval"):
        return []
    notes = []
    loader = section.get("data_loader")
    if isinstance(loader, dict) and loader.get("phase") == "eval" and len(kinds) == 1:
        loader["phase"] = "train"
        notes.append(
            "eval_dataset.data_loader.phase: train replaces eval: PerplexityMetric reads prompts with their answers."
        )
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
