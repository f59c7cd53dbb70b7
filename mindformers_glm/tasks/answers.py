"""What run modes eval and predict do with an engine, whatever network computes in it.

The settings are `defaults`, the engine's own where there are none; a reply also ends where the tokenizer says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers_glm.config import RunConfig
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.evaluation.prediction import RESULT_NAME, predict
from mindformers_glm.evaluation.runner import evaluate_generation
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.tokenizers.glm import GLMTokenizer


def answer(
    config: RunConfig,
    engine: Engine,
    tokenizer: GLMTokenizer,
    prompts: str | list[str],
    *,
    defaults: GenerationConfig | None = None,
    share: Share = ALL,
    writes: bool = True,
) -> list[dict[str, list[str]]]:
    """A result for each prompt; also in `save_file` where this process `writes`."""
    return predict(
        engine,
        tokenizer,
        prompts,
        generation_config=(defaults or engine.defaults).ending_also(tokenizer.stop_ids),
        batch_size=config.predict_batch_size,
        model_name=config.model_name,
        unescape=True,
        result_file=(config.save_file or RESULT_NAME) if writes else None,
        share=share,
    )


def judge(
    engine: Engine,
    tokenizer: GLMTokenizer,
    dataset: TokenDataset,
    metric: Any,
    *,
    output: Path,
    defaults: GenerationConfig | None = None,
    share: Share = ALL,
    writes: bool = True,
) -> dict[str, float]:
    """Scores of what the engine writes after the prompts of a dataset; each text in predictions.jsonl of `output`."""
    file = output / "predictions.jsonl" if writes else None
    settings = (defaults or engine.defaults).ending_also(tokenizer.stop_ids)
    return evaluate_generation(engine, tokenizer, dataset, metric, settings, predictions=file, share=share).scores
