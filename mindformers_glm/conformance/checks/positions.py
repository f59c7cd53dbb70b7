"""Rotary positions: the table with every long-context rule, and the turning of heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindformers_glm.conformance import reference
from mindformers_glm.conformance.check import Answer, check
from mindformers_glm.conformance.device import array, tensor
from mindformers_glm.conformance.inputs import numbers
from mindformers_glm.ops.rotary import RotateHeadsWithGradient, head_scales, rotary_table
from mindformers_glm.ops.yarn import Yarn

HEADS, KV_HEADS, CHANNELS, TOKENS = 4, 2, 16, 5
_YARN = {"factor": 4.0, "original": 32}


def _table(**settings: Any) -> np.ndarray:
    ours = dict(settings)
    if "yarn" in ours:
        ours["yarn"] = Yarn(4.0, 32)
    return rotary_table(length=40, channels=CHANNELS, **ours).astype(np.float64)


def _wanted(**settings: Any) -> np.ndarray:
    angle, size = reference.angles(range(40), CHANNELS // 2, **settings)
    table = np.zeros((40, 2, CHANNELS))
    table[:, 0] = 1
    for channel in range(CHANNELS // 2):
        table[:, 0, channel] = np.cos(angle[:, channel // 2]) * size
        table[:, 1, channel] = np.sin(angle[:, channel // 2]) * size
    return table


@check("rotary.table", place="ops/rotary.py: rotary_table")
def _tables(kind: str) -> Answer:
    rules: dict[str, dict[str, Any]] = {
        "plain": {},
        "base x 50": {"ratio": 50.0},
        "positions / 16": {"ratio": 16.0, "method": "linear"},
    }
    return Answer(
        {name: _table(**rule) for name, rule in rules.items()}, {name: _wanted(**rule) for name, rule in rules.items()}
    )


@check("rotary.yarn", place="ops/yarn.py: Yarn", needs=["rotary.table"])
def _yarn(kind: str) -> Answer:
    return Answer({"table": _table(yarn=_YARN)}, {"table": _wanted(yarn=_YARN)})


def places(tokens: int, *, heads: int = HEADS, kv_heads: int = KV_HEADS) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of positions 0 to T - 1 as the heads take them: (1, H + 2 K, T, E), by the reference."""
    angle, _ = reference.angles(range(tokens), CHANNELS // 2)
    cos, sin = np.ones((tokens, CHANNELS)), np.zeros((tokens, CHANNELS))
    cos[:, : CHANNELS // 2], sin[:, : CHANNELS // 2] = np.cos(angle).repeat(2, 1), np.sin(angle).repeat(2, 1)
    scale = np.r_[np.full(heads, CHANNELS**-0.5), np.ones(kv_heads)][:, None, None]
    ones, none = np.ones((kv_heads, tokens, CHANNELS)), np.zeros((kv_heads, tokens, CHANNELS))
    return np.concatenate((cos * scale, ones))[None], np.concatenate((sin * scale, none))[None]


@check("rotary.scales", place="ops/rotary.py: head_scales")
def _scales(kind: str) -> Answer:
    factor, offset = head_scales(heads=HEADS, kv_heads=KV_HEADS, channels=CHANNELS)
    wanted = np.r_[np.full(HEADS, 0.25), np.ones(KV_HEADS), np.zeros(KV_HEADS)]
    return Answer(
        {"factor": factor.reshape(-1).astype(np.float64), "offset": offset.reshape(-1).astype(np.float64)},
        {"factor": wanted, "offset": (wanted == 0).astype(np.float64)},
    )


@check("rotary.turn", place="ops/rotary.py: RotateHeads")
def _turn(kind: str) -> Answer:
    x = numbers("heads", 2, HEADS + 2 * KV_HEADS, TOKENS, CHANNELS, kind=kind)
    cos, sin = places(TOKENS)
    cell = RotateHeadsWithGradient(heads=HEADS, kv_heads=KV_HEADS, channels=CHANNELS)
    found = [array(part) for part in cell(tensor(x), tensor(cos), tensor(sin))]
    q = reference.rotate(x[:, :HEADS], range(TOKENS)) / CHANNELS**0.5
    k = reference.rotate(x[:, HEADS : HEADS + KV_HEADS], range(TOKENS))
    wanted = [q.reshape(2, KV_HEADS, -1, CHANNELS), k, x[:, HEADS + KV_HEADS :]]
    names = ("queries", "keys", "values")
    return Answer(dict(zip(names, found, strict=True)), dict(zip(names, wanted, strict=True)))
