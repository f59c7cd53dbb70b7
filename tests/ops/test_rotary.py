"""Rotary positions against complex numbers, in both long-context forms."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import both_gradients
from mindspore import Tensor, nn

from mindformers_glm.ops.rotary import (
    RotateHeads,
    RotateHeadsWithGradient,
    head_scales,
    pair_turn,
    rotary_rows,
    rotary_table,
)
from mindformers_glm.ops.yarn import Yarn

B, T, H, K, E = 2, 5, 4, 2, 8
RNG = np.random.default_rng(0)


def places(length=T):
    table = rotary_table(length=length, channels=E)
    factor, offset = head_scales(heads=H, kv_heads=K, channels=E)
    cos, sin = table[None, None, :, 0] * factor + offset, table[None, None, :, 1] * factor
    return Tensor(cos), Tensor(sin)


def heads():
    return Tensor(RNG.normal(size=(B, H + 2 * K, T, E)).astype(np.float32))


def test_heads_equal_complex_numbers():
    x = heads()
    q, k, v = (part.asnumpy() for part in RotateHeadsWithGradient(heads=H, kv_heads=K, channels=E)(x, *places()))
    angle = np.outer(np.arange(T), 10000.0 ** (-np.arange(0, E // 2, 2) / (E // 2)))
    turned = x.asnumpy().copy()
    pairs = (turned[..., 0 : E // 2 : 2] + 1j * turned[..., 1 : E // 2 : 2]) * np.exp(1j * angle)
    turned[..., 0 : E // 2 : 2], turned[..., 1 : E // 2 : 2] = pairs.real, pairs.imag
    np.testing.assert_allclose(q.reshape(B, H, T, E), turned[:, :H] / np.sqrt(E), atol=1e-6)
    np.testing.assert_allclose(k, turned[:, H : H + K], atol=1e-6)
    np.testing.assert_array_equal(v, x.asnumpy()[:, H + K :])


def test_scores_depend_on_distance_only():
    cos, sin = places(length=40)
    x = np.repeat(RNG.normal(size=(1, H + 2 * K, 1, E)).astype(np.float32), 40, 2)
    q, k, _ = (p.asnumpy() for p in RotateHeadsWithGradient(heads=H, kv_heads=K, channels=E)(Tensor(x), cos, sin))
    q = q.reshape(1, H, 40, E)
    near = [q[0, 0, t + 3] @ k[0, 0, t] for t in range(30)]
    np.testing.assert_allclose(near, near[0], rtol=1e-4)


class Cubed(nn.Cell):
    def __init__(self, rotate):
        super().__init__()
        self.rotate = rotate

    def construct(self, x, cos, sin):
        q, k, v = self.rotate(x, cos, sin)
        return (q**3).sum() + (k**2).sum() + (v * 0.3).sum()


def test_the_gradient_by_hand_is_the_derived_one(mode):
    sizes = {"heads": H, "kv_heads": K, "channels": E}
    cos, sin = places()

    class Fixed(nn.Cell):
        def __init__(self, rotate):
            super().__init__()
            self.inner = Cubed(rotate)

        def construct(self, x):
            return self.inner(x, cos, sin)

    both_gradients(Fixed(RotateHeads(**sizes)), Fixed(RotateHeadsWithGradient(**sizes)), heads())


@pytest.mark.parametrize("position", [1, 2049, 30000])
def test_long_positions_keep_their_precision(position):
    table = rotary_table(length=32768, channels=128)
    exact = position * 10000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(table[position, 0, 0:64:2], np.cos(exact), atol=1e-7)
    np.testing.assert_allclose(table[position, 1, 1:64:2], np.sin(exact), atol=1e-7)
    assert (table[:, 0, 64:] == 1).all() and (table[:, 1, 64:] == 0).all()


def test_both_long_context_forms():
    plain = rotary_table(length=64, channels=16)
    np.testing.assert_allclose(
        rotary_table(length=64, channels=16, ratio=4, method="linear")[::4], plain[:16], atol=1e-7
    )
    rebased = rotary_table(length=64, channels=16, ratio=50, method="base")
    exact = 63 * 500000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(rebased[63, 0, 0:8:2], np.cos(exact), atol=1e-7)


def test_the_turn_is_a_quarter_of_a_circle():
    turn = pair_turn(8)
    np.testing.assert_array_equal(turn[:4, :4] @ turn[:4, :4], -np.eye(4))
    assert not turn[4:].any() and not turn[:, 4:].any()


@pytest.mark.parametrize(
    ("name", "ratio", "rotated", "yarn"),
    [
        ("theta_1e4_dim64", 1, 64, None),
        ("theta_5e6_dim64", 500, 64, None),
        ("theta_1e8_dim64", 10000, 64, None),
        ("theta_1e4_dim128", 1, 128, None),
        ("yarn4_theta_1e4_dim64", 1, 64, Yarn(4.0, 32768)),
    ],
)
def test_tables_of_the_true_shapes_up_to_a_million(golden, name, ratio, rotated, yarn):
    """Within what float32, in which the official tables are computed, loses with the position."""
    given = np.load(golden / "glm4/rope_real/rope.npz")
    rows = rotary_rows(given[f"{name}/positions"], 128, ratio=ratio, rotated=rotated, yarn=yarn)
    for side, key in enumerate(("cos", "sin")):
        off = np.abs(rows[:, side, :rotated:2] - given[f"{name}/{key}"]).max(1)
        assert (off < 1e-6 + 1e-7 * given[f"{name}/positions"]).all()  # the official tables are of float32
        assert (rows[:, side, :rotated:2] == rows[:, side, 1:rotated:2]).all()
        assert (rows[:, side, rotated:] == 1 - side).all()
