"""Several sequences in one row: loss and gradients are those of the sequences apart, with kernels and without."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.ops.kernels.operators import use_formulas

SHAPE = {
    "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4,
    "multi_query_group_num": 2, "padded_vocab_size": 101, "param_init_type": "float32", "compute_dtype": "float32",
}  # fmt: skip


def network(length, *, kernels, **changes):
    ms.set_seed(3)
    model = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**{**SHAPE, "seq_length": length, **changes}))
    rng = np.random.default_rng(5)
    for parameter in model.get_parameters():
        parameter.set_data(Tensor(rng.normal(0, 0.2, parameter.shape).astype(np.float32)))
    if not kernels:
        use_formulas(model)
    return model.set_train(True)


def gradients(model, ids, labels):
    parameters = ms.ParameterTuple([p for p in model.get_parameters() if p.requires_grad])
    loss, grads = ms.value_and_grad(model, None, parameters)(Tensor(ids), Tensor(labels))
    return float(loss.asnumpy()), [grad.asnumpy() for grad in grads]


def packed(lengths, width, seed=0):
    """Rows (B, 2, T) and labels of sequences laid end to end, and the sequences."""
    rng = np.random.default_rng(seed)
    ids, labels = np.zeros((len(lengths), 2, width), np.int32), np.full((len(lengths), width), -100, np.int32)
    apart = []
    for row, sizes in enumerate(lengths):
        place = 0
        for size in sizes:
            one, target = rng.integers(0, 101, size), rng.integers(0, 101, size)
            target[: size // 3] = -100
            end = place + size
            ids[row, 0, place:end], ids[row, 1, place:end], labels[row, place:end] = one, place, target
            apart.append((one.astype(np.int32), target.astype(np.int32)))
            place = end
        ids[row, 1, place:] = place  # padding sees itself alone
    return ids, labels, apart


CASES = [[[5, 1, 10], [16]], [[33, 20, 40, 7], [64, 36]], [[130, 3, 67]]]


@pytest.mark.parametrize(
    ("lengths", "kernels", "changes"),
    [*((case, kernels, {}) for case in CASES for kernels in (True, False)), (CASES[1], True, {"pre_seq_len": 4})],
)
@pytest.mark.slow_where(lambda mode, lengths, kernels: mode == "graph" and not (lengths == CASES[0] and kernels))
@pytest.mark.slow_where(lambda lengths, kernels, changes: not changes and kernels == (lengths == CASES[1]))
def test_loss_and_gradients_are_those_of_the_sequences_apart(lengths, kernels, changes, mode):
    """Also of a learned prefix, which is not rotated: there positions restart with each sequence."""
    width = max(sum(sizes) for sizes in lengths) + 2
    ids, labels, apart = packed(lengths, width)
    model = network(width, kernels=kernels, **changes)
    loss, grads = gradients(model, ids, labels)
    longest = max(len(one) for one, _ in apart)
    alone_ids = np.zeros((len(apart), longest), np.int32)
    alone_labels = np.full((len(apart), longest), -100, np.int32)
    for row, (one, target) in enumerate(apart):
        alone_ids[row, : len(one)], alone_labels[row, : len(one)] = one, target
    expected, parts = gradients(model, alone_ids, alone_labels)
    assert loss == pytest.approx(expected, rel=1e-5)
    for one, other in zip(grads, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("kernels", [True, False])
def test_a_sequence_does_not_feel_its_neighbour(kernels):
    ids, labels, _ = packed([[20, 30]], 50)
    model = network(50, kernels=kernels).set_train(False)
    before = model(Tensor(ids)).asnumpy()
    ids[0, 0, :20] = 7
    after = model(Tensor(ids)).asnumpy()
    np.testing.assert_array_equal(before[0, 20:], after[0, 20:])
    assert np.abs(before[0, :20] - after[0, :20]).max() > 0.01


@pytest.mark.usefixtures("pynative")
def test_kernels_and_formulas_agree_for_any_border():
    """Borders are numbers of the caller: whatever they are, a token sees itself."""
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(0, 101, (3, 70)), np.minimum(rng.integers(0, 70, (3, 70)), np.arange(70))], 1)
    results = [network(70, kernels=kernels).set_train(False)(Tensor(ids.astype(np.int32))) for kernels in (True, False)]
    np.testing.assert_allclose(results[0].asnumpy(), results[1].asnumpy(), atol=2e-4)


@pytest.mark.parametrize("changes", [{"pre_seq_len": 4}, {"recompute_config": {"recompute": True}}])
@pytest.mark.slow_where(lambda mode, changes: mode == "graph" and "pre_seq_len" in changes)
def test_prefixes_and_recomputation_go_with_packed_rows(changes, mode):
    ids, labels, _ = packed([[9, 6], [15]], 16)
    loss, grads = gradients(network(16, kernels=True, num_layers=1, **changes), ids, labels)
    plain, expected = gradients(network(16, kernels=False, num_layers=1, **changes), ids, labels)
    assert loss == pytest.approx(plain, rel=1e-5)
    for one, other in zip(grads, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow_where(lambda mode: mode == "graph")
@pytest.mark.parametrize("kernels", [True, False])
def test_positions_of_their_own_turn_keys_and_hide_nothing(kernels, mode):
    """reset_position_ids without reset_attention_mask: turned by a table, causal by slots."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 101, (2, 40)).astype(np.int32)
    own = np.stack([np.r_[:15, :25], np.r_[:1, :20, :19]]).astype(np.int32)
    model = network(40, kernels=kernels).set_train(False)
    made = model(Tensor(np.stack([ids, np.zeros_like(ids), own], 1))).asnumpy()
    inner = model.transformer
    for row, positions in enumerate(own):
        one = Tensor(ids[row : row + 1])
        cos, sin, mask = inner.place(one)
        cos, sin = (Tensor(part.asnumpy()[:, :, positions]) for part in (cos, sin))
        apart = inner.output_layer(inner.encoder(inner.embedding(one), cos, sin, mask, 1))
        np.testing.assert_allclose(made[row], apart.asnumpy(), atol=2e-5)
    plain = np.stack([ids, np.zeros_like(ids), np.tile(np.arange(40, dtype=np.int32), (2, 1))], 1)
    np.testing.assert_allclose(model(Tensor(plain)).asnumpy(), model(Tensor(ids)).asnumpy(), atol=2e-5)
    assert np.abs(made - model(Tensor(ids)).asnumpy()).max() > 1e-3


@pytest.mark.slow_where(lambda mode: mode == "graph")
def test_gradients_of_rows_with_positions_of_their_own_agree(mode):
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 101, (2, 24)).astype(np.int32)
    own = np.stack([np.r_[:9, :15], np.arange(24)]).astype(np.int32)
    planes, labels = np.stack([ids, np.zeros_like(ids), own], 1), np.roll(ids, -1, 1)
    results = [gradients(network(24, kernels=kernels), planes, labels) for kernels in (True, False)]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.usefixtures("pynative")
def test_first_positions_are_no_token_ids():
    """Rows of 131,072 tokens have positions beyond the vocabulary."""
    ids = np.zeros((1, 2, 120), np.int32)
    ids[0, 1, 110:] = 110
    assert network(120, kernels=True).set_train(False)(Tensor(ids)).shape == (1, 120, 101)
