"""Frozen layers, NEFTune's noise and smoothed labels: what they change, and that an evaluation has none of it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients, random_network

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.training import EmbeddingNoise, freeze, set_training
from mindformers_glm.ops.cross_entropy import CrossEntropy, HeadCrossEntropy

IDS = np.array([[5, 17, 99, 3], [1, 2, 3, 4]], np.int32)
LABELS = np.array([[17, 99, 3, -100], [2, 3, 4, 7]], np.int32)


def smoothed(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> tuple[float, np.ndarray]:
    """Loss and its gradient in float64."""
    logits = logits.astype(np.float64)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    wanted = np.full_like(probs, smoothing / logits.shape[1])
    kept = labels >= 0
    wanted[np.arange(len(labels)), np.where(kept, labels, 0)] += 1 - smoothing
    share = (kept / (kept.sum() + 1e-5))[:, None]
    return float((-(wanted * np.log(probs)) * share).sum()), (probs - wanted) * share


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.slow_where(lambda mode, frozen: mode == "graph" and frozen)
def test_smoothed_loss_and_gradients_are_exact(kernels, frozen, mode):
    rng = np.random.default_rng(0)
    hidden, weight = (rng.normal(0, 1, (n, 6)).astype(np.float32) for n in (9, 37))
    labels = np.where(rng.random(9) < 0.3, -100, rng.integers(0, 37, 9)).astype(np.int32)
    loss, slopes = smoothed(hidden @ weight.T, labels, 0.1)
    head = HeadCrossEntropy(smoothing=0.1, frozen=frozen)
    head.kernel_is_on = head.kernel_is_on and kernels
    step = ms.value_and_grad(head, (0, 1))
    found, (dhidden, dweight) = step(Tensor(hidden), Tensor(weight), Tensor(labels))
    assert float(found) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(dhidden.asnumpy(), slopes @ weight, atol=1e-6)
    np.testing.assert_allclose(dweight.asnumpy(), slopes.T @ hidden, atol=1e-6)


@pytest.mark.usefixtures("pynative")
def test_logits_are_smoothed_in_training_only():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (9, 37)).astype(np.float32), rng.integers(0, 37, 9).astype(np.int32)
    for training in (True, False):
        loss, slopes = smoothed(logits, labels, 0.2 if training else 0)
        step = ms.value_and_grad(CrossEntropy(smoothing=0.2).set_train(training), 0)
        found, gradient = step(Tensor(logits), Tensor(labels))
        assert float(found) == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(gradient.asnumpy(), slopes, atol=1e-6)


def test_noise_is_uniform_within_its_bound_and_of_training_alone():
    rows = Tensor(np.zeros((64, 96), np.float32))
    noise = EmbeddingNoise(5.0, seed=3)
    first, second = noise(rows, 32).asnumpy(), noise(rows, 32).asnumpy()
    bound = 5 / (32 * 96) ** 0.5
    assert np.abs(first).max() <= bound and np.abs(first).max() > 0.99 * bound
    assert first.std() == pytest.approx(bound / 3**0.5, rel=0.03) and abs(first.mean()) < 0.03 * bound
    assert not np.array_equal(first, second)
    model = random_network()
    ids, labels = Tensor(IDS), Tensor(LABELS)
    plain = float(model(ids, labels))
    set_training(model, noise_alpha=50.0, smoothing=0.3)
    noisy = [float(model.set_train(True)(ids, labels)) for _ in range(2)]
    assert noisy[0] != noisy[1]
    assert float(model.set_train(False)(ids, labels)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "settings, trained",
    [
        ({"first_layers": 1}, {"layers.1.", "final_layernorm", "output_layer"}),
        ({"include": ["*layernorm*", "*.layers.*"]}, {"embedding_table", "output_layer"}),
        ({"first_layers": 2, "exclude": ["*query_key_value*"]}, {"query_key_value", "final_layernorm", "output_layer"}),
    ],
)
def test_what_is_frozen(settings, trained):
    model = random_network()
    freeze(model, **settings)
    names = [parameter.name for parameter in model.trainable_params()]
    assert all(any(part in name for part in trained) for name in names)
    assert all(any(part in name for name in names) for part in trained)


@pytest.mark.usefixtures("pynative")
def test_gradients_of_what_is_left_are_the_same():
    whole = loss_and_gradients(random_network(), IDS, LABELS)[1]
    model = random_network()
    freeze(model, first_layers=1, include=["*output_layer*"])
    set_training(model.set_train(True))
    some = loss_and_gradients(model, IDS, LABELS)[1]
    assert 0 < len(some) < len(whole)
    for name, gradient in some.items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"first_layers": 3}, "freeze_first_layers: got 3. The network has 2 layers"),
        ({"include": ["layernorm"]}, "freeze_include: got 'layernorm'. No parameter has such a name"),
        ({"include": ["*"]}, "Nothing is left to train"),
    ],
)
def test_freezing_too_much_is_told(settings, message):
    with pytest.raises(ConfigError, match=message):
        freeze(random_network(), **settings)


@pytest.mark.oracle
def test_noise_and_smoothing_beside_torch():
    torch = pytest.importorskip("torch")
    from transformers.integrations.neftune import neftune_post_forward_hook  # noqa: PLC0415

    table = torch.nn.Embedding(10, 96)
    table.neftune_noise_alpha, table.weight.data[:] = 5.0, 0
    theirs = neftune_post_forward_hook(table.train(), None, table(torch.zeros(2, 32, dtype=torch.long)))
    ours = EmbeddingNoise(5.0)(Tensor(np.zeros((64, 96), np.float32)), 32).asnumpy()
    theirs = theirs.detach().numpy()
    assert ours.max() == pytest.approx(theirs.max(), rel=0.01) and ours.min() == pytest.approx(theirs.min(), rel=0.01)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (64, 101)).astype(np.float32), rng.integers(0, 101, 64)
    labels[::5] = -100
    given = torch.from_numpy(logits).requires_grad_()
    loss = torch.nn.functional.cross_entropy(given, torch.from_numpy(labels), label_smoothing=0.1)
    loss.backward()
    step = ms.value_and_grad(CrossEntropy(smoothing=0.1).set_train(True), 0)
    found, gradient = step(Tensor(logits), Tensor(labels.astype(np.int32)))
    assert float(found) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), given.grad.numpy(), atol=1e-6)
