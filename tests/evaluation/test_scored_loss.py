"""The loss of labelled rows from an engine is that of training."""

from types import SimpleNamespace

import numpy as np
import pytest
from mindspore_modes import pynative  # noqa: F401 - a fixture
from tiny_networks import random_network

from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.held_files import NeedsMindSpore
from mindformers_glm.data.batch import Batch
from mindformers_glm.evaluation.metrics import EmF1Metric, PerplexityMetric
from mindformers_glm.evaluation.runner import evaluate_loss, mean_loss
from mindformers_glm.evaluation.scored_loss import can_score, scored_loss
from mindformers_glm.labels import IGNORED
from mindformers_glm.ops.kernels import library
from mindformers_glm.tasks import plain

LINES = np.array([1, 2])


def batch(*, gap: bool = False) -> Batch:
    """Two rows of 16 with prompts and padding without labels; with `gap` a label within an answer is ignored."""
    text = np.random.default_rng(0).integers(3, 101, (2, 17)).astype(np.int32)
    labels = text[:, 1:].copy()
    labels[0, :5] = labels[1, :2] = labels[1, 12:] = IGNORED
    if gap:
        labels[0, 8:10] = IGNORED
    return Batch(text[:, :16], labels, LINES)


class Data:
    """Evaluation data whose rows are several texts."""

    def __init__(self, config) -> None:
        del config

    def of(self, metric):
        one = batch()
        return Rows(batch(), one._replace(position_ids=np.zeros_like(one.input_ids)))


def test_rows_that_are_several_texts_are_seen_before_anything_is_generated(monkeypatch, tmp_path):
    monkeypatch.setattr(plain, "EvaluationData", Data)
    monkeypatch.setattr(plain, "build_tokenizer", lambda config: None)
    monkeypatch.setattr(plain, "held_of_run", lambda config: pytest.fail("weights are read"))
    metrics = [SimpleNamespace(build=EmF1Metric), SimpleNamespace(build=PerplexityMetric)]
    config = SimpleNamespace(run_mode="eval", eval_task=None, metrics=metrics, output_dir=str(tmp_path))
    with pytest.raises(NeedsMindSpore, match="several texts"):
        plain.run_plainly(config)


class Rows:
    """A dataset of given batches."""

    def __init__(self, *batches: Batch) -> None:
        self.rows = batches

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, start: int = 0):
        return iter(self.rows[start:])


@pytest.mark.skipif(library.library() is None, reason="no kernels")
@pytest.mark.usefixtures("pynative")
def test_it_is_the_loss_of_training():
    model = random_network()
    held = HeldNetwork(model.config)
    held.load({parameter.name: parameter.asnumpy() for parameter in model.get_parameters()})
    rows, engine = Rows(batch(), batch(gap=True)), held_engine(held, {})
    assert all(map(can_score, rows.batches(0)))
    wanted = evaluate_loss(model, rows, PerplexityMetric())
    found = mean_loss(lambda one: scored_loss(engine, one), rows, PerplexityMetric())
    assert found.scores["loss"] == pytest.approx(wanted.scores["loss"], rel=1e-6)
    assert found[1:3] == wanted[1:3]


def test_rows_without_a_label_cost_nothing():
    one = batch()
    assert scored_loss(None, one._replace(labels=np.full_like(one.labels, IGNORED))) == 0


def test_rows_of_several_texts_are_not_scored():
    one = batch()
    assert not can_score(one._replace(first_visible=np.zeros_like(one.labels)))
    assert not can_score(one._replace(position_ids=np.zeros_like(one.labels)))
    other = one.labels.copy()
    other[0, 9] = (other[0, 9] + 1) % 101  # not the token that follows
    assert not can_score(one._replace(labels=other))
    other = one.labels.copy()
    other[1, 11] = 7  # the last one may end what the row was cut from
    assert can_score(one._replace(labels=other))
