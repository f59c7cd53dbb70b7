"""`eval_task` of a YAML: benchmarks in run mode eval, and as the evaluation of a training run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mindformers_glm import runtime
from mindformers_glm.assembly.origin import Origin, origin_of_config
from mindformers_glm.config import RunConfig
from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.benchmarks import built_tasks, evaluate
from mindformers_glm.evaluation.share import Share
from mindformers_glm.evaluation.tasks.registered import TASKS, unknown_task
from mindformers_glm.generation.engine import Engine
from mindformers_glm.log import logger
from mindformers_glm.tokenizers.glm import GLMTokenizer


class Benchmarks:
    """The section `eval_task` of a run."""

    def __init__(self, config: RunConfig) -> None:
        if config.eval_task is None:
            raise ConfigError("eval_task", None, "Name the benchmarks: tasks, data_dir.")
        self.config, self.section = config, config.eval_task
        self.origin: Origin = origin_of_config(config)
        for name in self.section.tasks:
            if name not in TASKS and not name.endswith((".yaml", ".yml")):
                raise unknown_task(name, key="eval_task.tasks")

    @property
    def lengthened(self) -> RunConfig:
        """The configuration whose network takes prompts of `max_length`, or as long as the published model takes."""
        length = self.section.max_length or self.origin.length
        if length is None or length == self.config.network.config.get("seq_length"):
            return self.config
        logger.info("eval_task: prompts may have %d tokens (eval_task.max_length)", length)
        return self.config.changed({"model": {"model_config": {"seq_length": length}}})

    def check(self, tokenizer: GLMTokenizer) -> None:
        """Reads the data of every task: its faults show before anything is computed.

        Raises:
            UserError: data or settings do not fit.
        """
        section, length = self.section, self.config.network.config.get("seq_length")
        built_tasks(
            section.tasks,
            tokenizer,
            data_dir=section.data_dir,
            subjects=section.subjects,
            way=section.way,
            num_fewshot=section.num_fewshot,
            limit=section.limit,
            max_length=length,
        )

    def figures(
        self, engine: Engine, tokenizer: GLMTokenizer, share: Share, *, output_dir: Path | None
    ) -> dict[str, float]:
        """The figures of every average, by names such as ceval-valid_acc; reports are written into `output_dir`.

        Raises:
            UserError: data or settings do not fit.
        """
        section = self.section
        results = evaluate(
            engine,
            tokenizer,
            section.tasks,
            data_dir=section.data_dir,
            subjects=section.subjects,
            way=section.way,
            num_fewshot=section.num_fewshot,
            batch_size=section.batch_size,
            limit=section.limit,
            output_dir=output_dir,
            model_name=self.config.initial_weights or "random weights",
            model_family=self.origin.family,
            weights=self.origin.stamp,
            share=share,
            shows_bar=runtime.rank() == 0 and sys.stderr.isatty(),
        )
        for notes in results["notes"].values():
            for note in notes:
                logger.info("note: %s", note)
        figures = flat(results)
        logger.info("Eval result: %s", figures)
        return figures


def flat(results: dict[str, Any]) -> dict[str, float]:
    """{group_figure: value} of results.json, as callbacks and the log want them."""
    return {
        f"{group}_{name.removesuffix(',none')}": value
        for group, figures in results["groups"].items()
        for name, value in figures.items()
        if name != "alias"
    }
