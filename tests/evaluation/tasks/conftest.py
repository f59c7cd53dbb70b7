"""The model and tokenizer that the goldens of evaluation were made with."""

from __future__ import annotations

import pytest

from mindformers_glm.registry import TOKENIZERS


@pytest.fixture(scope="session")
def tokenizer(glm2_vocab):
    return TOKENIZERS.build({"type": "ChatGLM2Tokenizer", "vocab_file": glm2_vocab}, "tokenizer")


@pytest.fixture(scope="session")
def folder(golden):
    return golden / "evaluation"


@pytest.fixture(scope="session")
def benchmark(shared):
    data = shared / "data/eval"
    return {"ceval": data / "ceval", "cmmlu": data / "cmmlu", "mmlu": data / "mmlu/data"}


@pytest.fixture(scope="session")
def engine(folder):
    from mindformers_glm import AutoModel
    from mindformers_glm.generation.generate import engine_of

    return engine_of(
        AutoModel.from_pretrained(str(folder / "model_glm2"), compute_dtype="float32", param_init_type="float32")
    )
