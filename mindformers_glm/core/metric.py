"""The import path of MindFormers for metrics; they live in `evaluation.metrics`."""

from mindformers_glm.core import ADGENMetric, EmF1Metric, PerplexityMetric, build_metric

__all__ = ["ADGENMetric", "EmF1Metric", "PerplexityMetric", "build_metric"]
