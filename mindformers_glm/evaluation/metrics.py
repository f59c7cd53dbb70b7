"""Scores of generated text, equal to MindFormers' figures. `update` as often as there are batches, then `eval`."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence

import numpy as np

from mindformers_glm.log import logger
from mindformers_glm.registry import METRICS

_ROUGE = ("rouge-1", "rouge-2", "rouge-l")
# Marks that EmF1Metric drops: those of the CMRC 2018 evaluation.
_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CJK = re.compile("[\u4e00-\u9fa5]")


@METRICS.register()
class ADGENMetric:
    """ROUGE-1, -2, -L (F of words cut by jieba) and BLEU-4 (of characters, smoothed by method 3), in per cent.

    Each pair is rounded to 4 digits, the result is the plain mean. A blank prediction cannot be scored and is left
    out, as MindFormers does, which raises the mean: `blank_scores_zero: True` counts it as 0. A pair with a blank
    label is always left out (MindFormers stopped there). Both are counted and reported.
    """

    def __init__(self, blank_scores_zero: bool = False) -> None:
        self.blank_scores_zero = blank_scores_zero
        self.clear()

    def clear(self) -> None:
        """Forgets every pair."""
        self.scores: dict[str, list[float]] = {name: [] for name in (*_ROUGE, "bleu-4")}
        self.num_pairs = self.num_blank_predictions = self.num_blank_labels = 0

    def update(self, predictions: Sequence[str], labels: Sequence[str]) -> None:
        """Scores one batch.

        Raises:
            ValueError: predictions and labels are not equally many.
        """
        if isinstance(predictions, tuple) and predictions and isinstance(predictions[0], list):
            predictions = predictions[0]
        if len(predictions) != len(labels):
            raise ValueError(f"ADGENMetric: {len(predictions)} predictions and {len(labels)} labels")
        for prediction, label in zip(predictions, labels, strict=True):
            self._add(prediction, label)

    def eval(self) -> dict[str, float]:
        """The means, nan without any pair; they are printed as well."""
        means = {name: float(np.mean(values)) if values else math.nan for name, values in self.scores.items()}
        if self.num_blank_predictions:
            fate = "count as 0" if self.blank_scores_zero else "are left out of the means"
            logger.warning("%d of %d predictions are blank and %s", self.num_blank_predictions, self.num_pairs, fate)
        if self.num_blank_labels:
            logger.warning("%d of %d labels are blank; their pairs are left out", self.num_blank_labels, self.num_pairs)
        print("metric: ADGENMetric")
        for name, mean in means.items():
            print(f"{name}: {' ' if name == 'bleu-4' else ''}{mean:.4f}")
        return means

    def _add(self, prediction: str, label: str) -> None:
        self.num_pairs += 1
        if not label.strip():
            self.num_blank_labels += 1
        elif not prediction.strip():
            self.num_blank_predictions += 1
            if self.blank_scores_zero:
                for values in self.scores.values():
                    values.append(0.0)
        else:
            for name, value in score_pair(prediction, label).items():
                self.scores[name].append(value)


@METRICS.register()
class PerplexityMetric:
    """`loss`: the plain mean over batches of the mean loss of each, and `PPL`: exp of it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets every batch."""
        self.losses: list[float] = []

    def update(self, loss: float) -> None:
        """Takes the mean loss of one batch."""
        self.losses.append(float(loss))

    def eval(self) -> dict[str, float]:
        """Both values, nan without any batch; they are printed as well."""
        loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        result = {"loss": loss, "PPL": math.exp(min(loss, 700.0))}
        print(f"Average Loss and PPL Metric: {result}")
        return result


@METRICS.register()
class EmF1Metric:
    """Exact match and F1 of short answers in Chinese or English, in per cent.

    Only the first line of a prediction counts. F1 counts the longest common run of units, where a unit is a Chinese
    character or a word.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets every pair."""
        self.matches: list[float] = []
        self.f1: list[float] = []

    def update(self, predictions: Sequence[str], labels: Sequence[str]) -> None:
        """Scores one batch.

        Raises:
            ValueError: predictions and labels are not equally many.
        """
        if len(predictions) != len(labels):
            raise ValueError(f"EmF1Metric: {len(predictions)} predictions and {len(labels)} labels")
        for prediction, label in zip(predictions, labels, strict=True):
            first_line = prediction.strip().split("\n")[0]
            self.matches.append(float(_plain(first_line) == _plain(label)))
            self.f1.append(_run_f1(_units(first_line), _units(label)))

    def eval(self) -> dict[str, float]:
        """`F1` and `Em`, nan without any pair; they are printed as well."""
        count = len(self.f1)
        result = {
            "F1": 100 * sum(self.f1) / count if count else math.nan,
            "Em": 100 * sum(self.matches) / count if count else math.nan,
        }
        print(f"F1: {result['F1']:.4f}, Em: {result['Em']:.4f}, number of samples: {count}")
        return result


def score_pair(prediction: str, label: str) -> dict[str, float]:
    """ROUGE and BLEU-4 of one pair in per cent, 4 digits. Neither text is blank."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # noqa: PLC0415 - slow to load
    from rouge_chinese import Rouge  # noqa: PLC0415 - slow to load

    found = Rouge().get_scores(_words(prediction), _words(label))[0]
    bleu = sentence_bleu([list(label)], list(prediction), smoothing_function=SmoothingFunction().method3)
    return {**{name: round(100 * found[name]["f"], 4) for name in _ROUGE}, "bleu-4": round(100 * bleu, 4)}


def _words(text: str) -> str:
    return " ".join(_cut(text))


def _cut(text: str) -> list[str]:
    import jieba  # noqa: PLC0415 - it reads its dictionary, about a second

    jieba.setLogLevel(logging.WARNING)
    return list(jieba.cut(text))


def _plain(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _MARKS)


def _units(text: str) -> list[str]:
    units, run = [], ""
    for char in text.lower().strip() + "\n":
        if _CJK.match(char) or char in _MARKS or char == "\n":
            units += [word for word in _cut(run) if word.strip()]
            run = ""
            if _CJK.match(char):
                units.append(char)
        else:
            run += char
    return units


def _run_f1(prediction: list[str], label: list[str]) -> float:
    overlap = _longest_common_run(prediction, label)
    if not overlap:
        return 0.0
    precision, recall = overlap / len(prediction), overlap / len(label)
    return 2 * precision * recall / (precision + recall)


def _longest_common_run(first: list[str], second: list[str]) -> int:
    best, previous = 0, [0] * (len(second) + 1)
    for unit in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(previous[place] + 1 if unit == other else 0)
        best, previous = max(best, *row), row
    return best
