"""Metrics, evaluation on a dataset, prediction for given texts. The loss of a model needs MindSpore, the rest not.

A name is imported when it is used first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindformers_glm.evaluation.metrics import ADGENMetric, EmF1Metric, PerplexityMetric
    from mindformers_glm.evaluation.prediction import predict
    from mindformers_glm.evaluation.runner import Evaluation, evaluate_generation, evaluate_loss
    from mindformers_glm.evaluation.text_metrics import ChrfMetric, ExactMatchMetric, SacreBleuMetric

_HOMES = {
    "ADGENMetric": "metrics",
    "ChrfMetric": "text_metrics",
    "EmF1Metric": "metrics",
    "Evaluation": "runner",
    "ExactMatchMetric": "text_metrics",
    "PerplexityMetric": "metrics",
    "SacreBleuMetric": "text_metrics",
    "evaluate_generation": "runner",
    "evaluate_loss": "runner",
    "predict": "prediction",
}

__all__ = [
    "ADGENMetric",
    "ChrfMetric",
    "EmF1Metric",
    "Evaluation",
    "ExactMatchMetric",
    "PerplexityMetric",
    "SacreBleuMetric",
    "evaluate_generation",
    "evaluate_loss",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
