"""Figures for texts that are generated and compared with a reference: by row, or over all rows at once.

`TEXT_METRICS` serves tasks of one's own; the classes serve `metric` of a YAML. sacrebleu is the extra `metrics`.
"""

from __future__ import annotations

import abc
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.metrics import score_pair
from mindformers_glm.registry import METRICS

_HAN = re.compile("[\u4e00-\u9fff]")


class TextFigure(NamedTuple):
    """`row` gives the figure of one pair; `corpus`, where there is one, that of all pairs, which is no mean of rows."""

    row: Callable[[str, str], float]
    corpus: Callable[[Sequence[str], Sequence[str]], float] | None = None


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both are the same but for white space at the ends."""
    return float(prediction.strip() == reference.strip())


def f1(prediction: str, reference: str) -> float:
    """Overlap of words (of characters where a text is Chinese), as SQuAD counts it."""
    one, two = (Counter(re.findall(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+", t.lower())) for t in (prediction, reference))
    common = sum((one & two).values())
    if not common:
        return float(not one and not two)
    return 2 * common / (sum(one.values()) + sum(two.values()))


def adgen_figure(name: str) -> Callable[[str, str], float]:
    """rouge-l or bleu-4 as ADGEN counts them, in per cent; 0 for a blank text."""

    def score(prediction: str, reference: str) -> float:
        blank = not prediction.strip() or not reference.strip()
        return 0.0 if blank else score_pair(prediction, reference)[name]

    return score


def sacrebleu_of(predictions: Sequence[str], references: Sequence[str], tokenize: str | None = None) -> float:
    """Corpus BLEU. `tokenize` None is sacrebleu's "zh" where a reference holds Chinese, its usual "13a" otherwise."""
    chosen = tokenize or ("zh" if any(map(_HAN.search, references)) else "13a")
    return float(_sacrebleu("sacrebleu").corpus_bleu(list(predictions), [list(references)], tokenize=chosen).score)


def chrf_of(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2."""
    return float(_sacrebleu("chrf").corpus_chrf(list(predictions), [list(references)]).score)


def _alone(corpus: Callable[[Sequence[str], Sequence[str]], float]) -> Callable[[str, str], float]:
    return lambda prediction, reference: corpus([prediction], [reference])


TEXT_METRICS: dict[str, TextFigure] = {
    "exact_match": TextFigure(exact_match),
    "f1": TextFigure(f1),
    "rouge": TextFigure(adgen_figure("rouge-l")),
    "bleu": TextFigure(adgen_figure("bleu-4")),
    "chrf": TextFigure(_alone(chrf_of), chrf_of),
    "sacrebleu": TextFigure(_alone(sacrebleu_of), sacrebleu_of),
}


class _Pairs(abc.ABC):
    """Pairs of all batches; a subclass says what `eval` makes of them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets every pair."""
        self.predictions: list[str] = []
        self.labels: list[str] = []

    def update(self, predictions: Sequence[str], labels: Sequence[str]) -> None:
        """Takes one batch.

        Raises:
            ValueError: predictions and labels are not equally many.
        """
        if len(predictions) != len(labels):
            raise ValueError(f"{type(self).__name__}: {len(predictions)} predictions and {len(labels)} labels")
        self.predictions += predictions
        self.labels += labels

    @abc.abstractmethod
    def figures(self) -> dict[str, float]:
        """The figures of all pairs."""

    def eval(self) -> dict[str, float]:
        """The figures of all pairs, nan without any; they are printed as well."""
        found = self.figures()
        print(", ".join(f"{name}: {value:.4f}" for name, value in found.items()))
        return found


@METRICS.register()
class ChrfMetric(_Pairs):
    """`chrf`: corpus chrF2 of sacrebleu (extra metrics), from 0 to 100."""

    def __init__(self) -> None:
        super().__init__()
        _sacrebleu("ChrfMetric")

    def figures(self) -> dict[str, float]:
        """See the class."""
        return {"chrf": chrf_of(self.predictions, self.labels) if self.labels else math.nan}


@METRICS.register()
class SacreBleuMetric(_Pairs):
    """`sacrebleu`: corpus BLEU of sacrebleu (extra metrics), from 0 to 100; `tokenize` as for sacrebleu_of."""

    def __init__(self, tokenize: str | None = None) -> None:
        super().__init__()
        known = _sacrebleu("SacreBleuMetric").BLEU.TOKENIZERS
        if tokenize is not None and tokenize not in known:
            raise ConfigError("metric.tokenize", tokenize, f"Use one of {', '.join(sorted(known))}.")
        self.tokenize = tokenize

    def figures(self) -> dict[str, float]:
        """See the class."""
        return {"sacrebleu": sacrebleu_of(self.predictions, self.labels, self.tokenize) if self.labels else math.nan}


@METRICS.register()
class ExactMatchMetric(_Pairs):
    """`exact_match` and `f1` of whole answers, from 0 to 1: see exact_match and f1. EmF1Metric is that of CMRC."""

    def figures(self) -> dict[str, float]:
        """See the class."""
        pairs = list(zip(self.predictions, self.labels, strict=True))
        return {
            function.__name__: sum(function(*pair) for pair in pairs) / len(pairs) if pairs else math.nan
            for function in (exact_match, f1)
        }


def _sacrebleu(asker: str) -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import sacrebleu  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("metric", asker, "Install it: pip install 'mindformers_glm[metrics]' (sacrebleu).") from error
    return sacrebleu
