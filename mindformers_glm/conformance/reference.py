"""The operators in float64 NumPy, written from their definitions and not from the suite's code: loops are welcome.

Shapes: B batch, T tokens, N rows, D hidden, H heads, K kv heads, E head_dim, F ffn, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mindformers_glm.labels import IGNORED

Array = np.ndarray


def gradients(function: Callable[..., Array], slope: Array, *inputs: Array, step: float = 1e-5) -> list[Array]:
    """Gradients of sum(function(*inputs) * slope) for every input, by central differences."""
    found = []
    for place, given in enumerate(inputs):
        gradient = np.zeros_like(given)
        for index in np.ndindex(*given.shape):
            sides = []
            for sign in (1, -1):
                moved = given.copy()
                moved[index] += sign * step
                sides.append((function(*inputs[:place], moved, *inputs[place + 1 :]) * slope).sum())
            gradient[index] = (sides[0] - sides[1]) / (2 * step)
        found.append(gradient)
    return found


def sequence_gradients(function: Callable[[Array], Array], slope: Array, x: Array, step: float = 1e-5) -> Array:
    """The same for one sequence x (T, W) of a function (B, T, W) -> (B, T, .): all its moved copies are one batch."""
    steps = np.eye(x.size).reshape(-1, *x.shape) * step
    upper, lower = np.split(function(np.concatenate((x + steps, x - steps))), 2)
    return (((upper - lower) * slope).sum((1, 2)) / (2 * step)).reshape(x.shape)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Rows x / sqrt(mean(x^2) + eps) * weight."""
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * weight


def silu_gate(x: Array) -> Array:
    """Rows [gate | up] -> gate / (1 + e^-gate) * up."""
    gate, up = np.split(x, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def angles(
    positions: Sequence[int] | Array,
    rotated: int,
    *,
    ratio: float = 1.0,
    method: str = "base",
    yarn: Mapping[str, float] | None = None,
) -> tuple[Array, float]:
    """The angle of every position for every pair (T, rotated / 2), and what the turned pairs are multiplied with."""
    base, spread = (10000.0 * ratio, 1.0) if method == "base" else (10000.0, ratio)
    speeds = [base ** (-2 * pair / rotated) for pair in range(rotated // 2)]
    size = 1.0
    if yarn is not None:
        size = 0.1 * math.log(yarn["factor"]) + 1
        first, last = (
            rotated * math.log(yarn["original"] / (2 * math.pi * turns)) / (2 * math.log(base))
            for turns in (yarn.get("fast", 32.0), yarn.get("slow", 1.0))
        )
        first, last = max(math.floor(first), 0), min(math.ceil(last), rotated - 1)
        for pair in range(rotated // 2):
            stretched = min(max((pair - first) / max(last - first, 0.001), 0.0), 1.0)
            speeds[pair] = speeds[pair] * (1 - stretched) + speeds[pair] / yarn["factor"] * stretched
    return np.array([[place / spread * speed for speed in speeds] for place in positions]), size


def rotate(x: Array, positions: Sequence[int] | Array, **settings: Any) -> Array:
    """Neighbouring pairs of the first half of x (..., T, E) turned by the angles of their positions."""
    rotated = x.shape[-1] // 2
    angle, size = angles(positions, rotated, **settings)
    turned = (x[..., 0:rotated:2] + 1j * x[..., 1:rotated:2]) * np.exp(1j * angle) * size
    out = x.copy()
    out[..., 0:rotated:2], out[..., 1:rotated:2] = turned.real, turned.imag
    return out


def softmax(x: Array) -> Array:
    """e^x / sum(e^x) over the last axis."""
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def attention(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Heads q (B, H, T, E), k and v (B, K, S, E) -> (B, H, T, E); `seen` (B, T, S) tells which keys a query sees.

    Head h uses key h // (H / K); scores are divided by sqrt(E).
    """
    out = np.empty(q.shape)
    for h in range(q.shape[1]):
        own = h * k.shape[1] // q.shape[1]
        scores = q[:, h] @ k[:, own].transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        out[:, h] = softmax(np.where(seen, scores, -np.inf)) @ v[:, own]
    return out


def causal(batch: int, tokens: int, first: Array | None = None) -> Array:
    """Which keys a query sees (B, T, T): its own and earlier ones, from position `first` (B, T) on."""
    seen = np.tril(np.ones((batch, tokens, tokens), bool))
    if first is not None:
        seen &= np.arange(tokens) >= first[:, :, None]
    return seen


def heads_of(rows: Array, batch: int, heads: int, kv_heads: int) -> tuple[Array, Array, Array]:
    """Rows q | k | v (N, (H + 2 K) E) -> q (B, H, T, E), k and v (B, K, T, E)."""
    whole = rows.reshape(batch, -1, heads + 2 * kv_heads, rows.shape[-1] // (heads + 2 * kv_heads))
    whole = whole.transpose(0, 2, 1, 3)
    return whole[:, :heads], whole[:, heads : heads + kv_heads], whole[:, heads + kv_heads :]


def rows_of(x: Array) -> Array:
    """Heads (B, H, T, E) -> rows (N, H E)."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0] * x.shape[2], -1)


def self_attention(
    rows: Array, *, batch: int, heads: int, kv_heads: int, first: Array | None = None, **settings: Any
) -> Array:
    """Rotary positions from 0 on and causal attention: rows q | k | v (N, (H + 2 K) E) -> rows (N, H E)."""
    q, k, v = heads_of(rows, batch, heads, kv_heads)
    places = range(q.shape[2])
    q, k = rotate(q, places, **settings), rotate(k, places, **settings)
    return rows_of(attention(q, k, v, causal(batch, q.shape[2], first)))


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean of -log softmax(logits)[label] over the labels that are not -100: () with divisor count + 1e-5."""
    total, count = 0.0, 0
    for row, label in zip(logits, labels, strict=True):
        if label != IGNORED:
            total += math.log(np.exp(row - row.max()).sum()) + row.max() - row[label]
            count += 1
    return np.array(total / (count + 1e-5))


def integers(packed: Array, scale: Array, *, bits: int, columns: int) -> Array:
    """The weight (N, D) that integers stand for: int8, or two of four bits in a byte, 64 columns apart, 8 for zero."""
    rows = packed.shape[0]
    whole = np.zeros((rows, columns))
    for column in range(columns):
        if bits == 8:
            whole[:, column] = packed[:, column]
        else:
            block, inside = divmod(column, 128)
            byte = packed[:, block * 64 + inside % 64].astype(int)
            whole[:, column] = (byte // 16 if inside >= 64 else byte % 16) - 8
    group = columns // scale.shape[1]
    return whole * np.repeat(scale.astype(np.float64), group, axis=1)
