"""Weights of 8 or 4 bits for inference: a network that exists, or one that is loaded (`quantization_bit`)."""

from mindformers_glm.quantization.quantize import LayerError, QuantizationReport, quantize_model, report

__all__ = ["LayerError", "QuantizationReport", "quantize_model", "report"]
