"""Metrics, evaluation on a dataset, prediction for given texts."""

from mindformers_glm.evaluation.metrics import ADGENMetric, EmF1Metric, PerplexityMetric
from mindformers_glm.evaluation.predict import predict
from mindformers_glm.evaluation.runner import Evaluation, evaluate_generation, evaluate_loss

__all__ = [
    "ADGENMetric",
    "EmF1Metric",
    "Evaluation",
    "PerplexityMetric",
    "evaluate_generation",
    "evaluate_loss",
    "predict",
]
