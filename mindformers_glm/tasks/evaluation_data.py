"""What run modes eval and predict read: rows with labels or with prompts, as each metric wants them."""

from __future__ import annotations

from typing import Any

from mindformers_glm.assembly.run_data import build_data
from mindformers_glm.config import RunConfig
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.metrics import PerplexityMetric
from mindformers_glm.files import user_path


class EvaluationData:
    """The evaluation data of a run in the form that each metric wants; `given` stands in for what is described."""

    def __init__(self, config: RunConfig, given: TokenDataset | None = None) -> None:
        self.config, self._given = config, given
        self._read: dict[bool, TokenDataset] = {}  # with labels or without -> rows

    def of(self, metric: Any) -> TokenDataset:
        """The rows to evaluate on: with labels as in training for a loss, with prompts for what generates.

        Raises:
            ConfigError: the dataset has no such rows.
        """
        if metric is None:
            return self._given or build_data(self.config, "eval")
        labels = isinstance(metric, PerplexityMetric)
        if labels not in self._read:
            self._read[labels] = self._given or build_data(self.config, "eval", labels=labels)
        dataset = self._read[labels]
        if dataset.counts_labels != labels:
            needs = (
                "labels as in training" if labels else "prompts and answers apart: eval_dataset_task KeyWordGenDataset"
            )
            fix = f"It needs rows with {needs}; {dataset.place} is read as {type(dataset).__name__} without them."
            raise ConfigError("metric.type", type(metric).__name__, fix)
        return dataset

    def prompts(self, first_metric: Any) -> str | list[str]:
        """What run mode predict answers: `input_data`, or the prompts of the evaluation data where there is none.

        Raises:
            ConfigError: there is neither.
        """
        if self.config.input_data is not None:
            return self.config.input_data
        section = self.config.eval_dataset
        if self._given is None and (
            section is None or not user_path(section.data_loader.get("dataset_dir") or "").exists()
        ):
            raise ConfigError("input_data", None, "Give prompts: --predict_data 'TEXT', or a file with one per line.")
        dataset = self.of(first_metric)
        rows = getattr(dataset, "rows", [])
        if not rows or not hasattr(rows[0], "prompt"):
            fix = "Its rows are no prompts. Give prompts: --predict_data 'TEXT', or a file with one per line."
            raise ConfigError("eval_dataset", str(dataset.place), fix)
        return [row.prompt for row in rows]
