"""Variables that the ATB guide exports: what each means here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from mindformers_glm.errors import ConfigError

# Read by the vendor's runtime below MindSpore, not by this suite; set them as there.
_OF_THE_RUNTIME = "read by the Ascend runtime where there is one; no effect on CPU"
_OF_ATB = "a switch of ATB's own operators, which this suite does not use: no effect"
VARIABLES: dict[str, str] = {
    "MAX_SEQ_LEN": "longest prompt and reply together, in tokens (2048)",
    "HCCL_BUFFSIZE": _OF_THE_RUNTIME,
    "HCCL_OP_BASE_FFTS_MODE_ENABLE": _OF_THE_RUNTIME,
    "TASK_QUEUE_ENABLE": "a switch of torch_npu, which this suite does not use: no effect",
    "ATB_OPERATION_EXECUTE_ASYNC": _OF_ATB,
    "ATB_LAYER_INTERNAL_TENSOR_REUSE": _OF_ATB,
    "ATB_USE_TILING_COPY_STREAM": _OF_ATB,
    "ENABLE_QUANT": "1: W8A8 weights from QUANT_WEIGHT_PATH",
    "QUANT_WEIGHT_PATH": "folder of the weights of ENABLE_QUANT=1",
    "ENABLE_SPARSE": "1: sparse weights; here those of QUANT_WEIGHT_PATH run, uncompressed",
    "COMPRESS_WEIGHT_PATH": "read by NPUs alone: no effect",
}
USUAL_MAX_SEQ_LEN = 2048


def said(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A line for every variable of the guide that is set."""
    for name, meaning in VARIABLES.items():
        if name in environment:
            yield f"{name}={environment[name]}: {meaning}"


def max_seq_len(environment: Mapping[str, str] = os.environ) -> int | None:
    """MAX_SEQ_LEN; None where it is not set.

    Raises:
        ConfigError: it is no number of tokens.
    """
    text = environment.get("MAX_SEQ_LEN", "").strip()
    if not text:
        return None
    if not text.isdigit() or not 1 <= int(text) <= 2**24:
        raise ConfigError("MAX_SEQ_LEN", text, "Give a number of tokens, for example 2048.")
    return int(text)
