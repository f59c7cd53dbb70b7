"""Run mode predict on a CPU without MindSpore: the same results, by the kernels from the weight files."""

from __future__ import annotations

from typing import Any

from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.assembly.held_files import NeedsMindSpore
from mindformers_glm.assembly.run_held import held_of_run, reasons_of
from mindformers_glm.assembly.run_tokenizer import build_tokenizer
from mindformers_glm.config import RunConfig
from mindformers_glm.evaluation.prediction import RESULT_NAME, predict


def check_predicts(config: RunConfig) -> None:
    """Passes where `predict_plainly` can do what a configuration asks for; no weight is read.

    Raises:
        NeedsMindSpore: it cannot.
    """
    reasons = reasons_of(config)
    if config.trainer.type != _TRAINER:
        reasons.append(f"the trainer is a {config.trainer.type}")
    if config.input_data is None:
        reasons.append("prompts come from a dataset")
    if reasons:
        raise NeedsMindSpore(*reasons)


def predict_plainly(config: RunConfig) -> list[dict[str, Any]]:
    """A result for each prompt of `input_data`; also on disk.

    Raises:
        UserError: weights, tokenizer or prompts do not fit.
    """
    assert config.input_data is not None
    tokenizer = build_tokenizer(config)
    engine = held_engine(held_of_run(config), {})
    return predict(
        engine,
        tokenizer,
        config.input_data,
        generation_config=engine.defaults.ending_also(tokenizer.stop_ids),
        batch_size=config.predict_batch_size,
        model_name=config.model_name,
        unescape=True,
        result_file=config.save_file or RESULT_NAME,
    )


_TRAINER = "CausalLanguageModelingTrainer"
