"""A larger network that begins as a smaller one: wider, deeper, with another vocabulary, and with the same replies.

What is added reads the old network and writes nothing yet: new dimensions of the residual stream are 0, new heads and
new layers are multiplied by 0 on their way back. Chen et al., Net2Net, 2016. Tokens keep their vectors by their text;
a new token has the mean of those that wrote it before. Shapes: D hidden, H heads, K groups, E channels, F inner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mindformers_glm.models.glm.config import ChatGLM2Config

_LAYER = "transformer.encoder.layers."
_SIGMA = 0.02


def grown(
    old: Mapping[str, np.ndarray], small: ChatGLM2Config, large: ChatGLM2Config, pieces: list[list[int]], seed: int = 0
) -> dict[str, np.ndarray]:
    """Weights of `large` from those of `small`. `pieces`: for each new id the old ids that stand for it, if any."""
    maker = _Maker(old, small, large, np.random.default_rng(seed))
    made = {
        "transformer.embedding.embedding_table": maker.table("transformer.embedding.embedding_table", pieces, 0.0),
        "transformer.output_layer.weight": maker.table("transformer.output_layer.weight", pieces, _SIGMA),
        "transformer.encoder.final_layernorm.weight": maker.norm("transformer.encoder.final_layernorm.weight"),
    }
    for new, (number, is_new) in enumerate(layers(small.num_layers, large.num_layers)):
        made |= {f"{_LAYER}{new}.{name}": value for name, value in maker.layer(number, is_new).items()}
    return made


def layers(old: int, new: int) -> list[tuple[int, bool]]:
    """Which old layer each new one comes from, and whether it begins as nothing: added ones are spread evenly."""
    added = new - old
    after = {math.ceil((i + 1) * old / (added + 1)) - 1 for i in range(added)}
    found = []
    for number in range(old):
        found.append((number, False))
        found += [(number, True)] if number in after else []
    return found


class _Maker:
    def __init__(
        self, old: Mapping[str, np.ndarray], small: ChatGLM2Config, large: ChatGLM2Config, rng: np.random.Generator
    ) -> None:
        self.old, self.small, self.large, self.rng = old, small, large, rng
        self.scale = math.sqrt(small.hidden_size / large.hidden_size)  # a norm divides by the root of the mean

    def read(self, name: str) -> np.ndarray:
        return np.asarray(self.old[name], np.float32)

    def noise(self, *shape: int) -> np.ndarray:
        return self.rng.normal(0, _SIGMA, shape).astype(np.float32)

    def table(self, name: str, pieces: list[list[int]], sigma: float) -> np.ndarray:
        """(V, D) -> (V', D')."""
        old = self.read(name)
        made = self.rng.normal(0, _SIGMA, (self.large.padded_vocab_size, self.large.hidden_size)).astype(np.float32)
        made[:, old.shape[1] :] *= sigma / _SIGMA
        mean = old.mean(0)
        for new, ids in enumerate(pieces):
            made[new, : old.shape[1]] = old[ids].mean(0) if ids else mean + self.noise(old.shape[1])
        return made

    def norm(self, name: str) -> np.ndarray:
        old = self.read(name)
        rest = np.full(self.large.hidden_size - len(old), old.mean(), np.float32)
        return np.concatenate([old, rest]) * self.scale

    def layer(self, number: int, is_new: bool) -> dict[str, np.ndarray]:
        """Weights of one layer; a new one is a copy that writes nothing."""
        name, width = f"{_LAYER}{number}.", self.large.hidden_size
        heads, queries = self._heads(), self.large.num_attention_heads * self.large.kv_channels
        qkv, bias = (
            self.read(f"{name}self_attention.query_key_value.weight"),
            self.read(f"{name}self_attention.query_key_value.bias"),
        )
        places = np.concatenate([heads, queries + np.arange(len(qkv) - len(heads))])
        made_qkv, made_bias = (
            self.noise(queries + len(qkv) - len(heads), width),
            np.zeros(queries + len(qkv) - len(heads), np.float32),
        )
        made_qkv[places, : qkv.shape[1]], made_bias[places] = qkv, bias
        dense = np.zeros((width, queries), np.float32)
        out = self.read(f"{name}self_attention.dense.weight")
        dense[: len(out), heads] = out
        gate, inner = self.read(f"{name}mlp.dense_h_to_4h.weight"), self.large.ffn_hidden_size
        made_gate, old_inner = self.noise(2 * inner, width), len(gate) // 2
        rows = np.concatenate([np.arange(old_inner), inner + np.arange(old_inner)])
        made_gate[rows, : gate.shape[1]] = gate
        down = np.zeros((width, inner), np.float32)
        out = self.read(f"{name}mlp.dense_4h_to_h.weight")
        down[: len(out), :old_inner] = out
        return {
            "input_layernorm.weight": self.norm(f"{name}input_layernorm.weight"),
            "post_attention_layernorm.weight": self.norm(f"{name}post_attention_layernorm.weight"),
            "self_attention.query_key_value.weight": made_qkv,
            "self_attention.query_key_value.bias": made_bias,
            "self_attention.dense.weight": dense * (not is_new),
            "mlp.dense_h_to_4h.weight": made_gate,
            "mlp.dense_4h_to_h.weight": down * (not is_new),
        }

    def _heads(self) -> np.ndarray:
        """Rows of the new query matrix where the old heads go: each stays in its group."""
        groups, channels = self.small.multi_query_group_num, self.small.kv_channels
        old, new = (config.num_attention_heads // groups for config in (self.small, self.large))
        heads = np.arange(groups * old)
        places = heads // old * new + heads % old
        return (places[:, None] * channels + np.arange(channels)).reshape(-1)


def pieces_of(new: Any, old: Any, same: Mapping[int, list[int]]) -> list[list[int]]:
    """For each id of the new sentencepiece model the ids of the old one that write the same; `same` for special ids."""
    found: list[list[int]] = []
    for number in range(new.get_piece_size()):
        piece = new.id_to_piece(number)
        whole = old.piece_to_id(piece)
        if whole != old.unk_id() or number == new.unk_id():
            found.append([whole])
            continue
        text = piece.replace("\u2581", " ")
        ids = [i for i in old.encode(text) if old.id_to_piece(i) != "\u2581"]
        found.append(ids)
    found += [[] for _ in range(max([*same, len(found) - 1]) + 1 - len(found))]
    for number, ids in same.items():
        found[number] = ids
    return found
