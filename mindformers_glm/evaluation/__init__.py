"""Metrics, evaluation on a dataset, prediction for given texts. The loss of a model needs MindSpore, the rest not."""

from mindformers_glm.evaluation.metrics import ADGENMetric, EmF1Metric, PerplexityMetric
from mindformers_glm.evaluation.predict import predict
from mindformers_glm.evaluation.runner import Evaluation, evaluate_generation, evaluate_loss
from mindformers_glm.evaluation.text_metrics import ChrfMetric, ExactMatchMetric, SacreBleuMetric

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
