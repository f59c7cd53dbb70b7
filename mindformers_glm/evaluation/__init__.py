"""Metrics, evaluation on a dataset, prediction for given texts. Evaluation needs MindSpore, the rest does not."""

from importlib.util import find_spec

from mindformers_glm.evaluation.metrics import ADGENMetric, EmF1Metric, PerplexityMetric
from mindformers_glm.evaluation.predict import predict
from mindformers_glm.evaluation.text_metrics import ChrfMetric, ExactMatchMetric, SacreBleuMetric

if find_spec("mindspore"):
    from mindformers_glm.evaluation.runner import Evaluation, evaluate_generation, evaluate_loss

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
