"""First weights of a network that copies before it has learned anything: an induction head, written down.

Where a token was seen before, what came after it comes again (Olsson et al., In-context Learning and Induction Heads,
2022): learned from text this takes more tokens than a small model sees in hours. Every token gets a code of signs in
dimensions of its own. A head of the first layer brings the code of the token before (its query and key are biases,
turned by one position); a head of the second looks for the place whose code before is that of its own token, and brings
the code that stands there to where the output layer reads it. All else is random, and all of it is trained.
"""

from __future__ import annotations

import numpy as np

from mindformers_glm.models.glm.config import ChatGLM2Config

SIGMA = 0.02
_BITS, _MATCHED = 32, 22  # of a code: as many as a head has channels; and those of them that positions hardly turn
_CODE, _BEFORE, _WRITTEN = 0.1, 0.1, 0.3  # how large codes stand in the residual stream
_NEAR = (60.0, 40.0, 20.0, 10.0)  # of the first rotary pairs: how sharply the head looks one token back
_MATCH, _LOGIT = 4.0, 0.35
_LAYER = "transformer.encoder.layers."
_ATTENTION = "self_attention."


def seeded(names: dict[str, tuple[int, ...]], config: ChatGLM2Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by name, in the shapes that are given, of a network of two or more layers."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(0, SIGMA, shape).astype(np.float32) for name, shape in sorted(names.items())}
    for name in made:
        if "layernorm" in name:
            made[name][:] = 1.0
        elif name.endswith(".bias"):
            made[name][:] = 0.0
    width, energy = config.hidden_size, SIGMA**2 * config.hidden_size
    own, before, written = np.split(np.arange(width - 2 * _BITS - _MATCHED, width), [_BITS, _BITS + _MATCHED])
    codes = rng.choice([-1.0, 1.0], (config.padded_vocab_size, _BITS)).astype(np.float32)
    table = made["transformer.embedding.embedding_table"]
    table[:, own[0] :] = 0.0
    table[:, own] = _CODE * codes
    energy += _BITS * _CODE**2
    first = _CODE / np.sqrt(energy / width)  # a code as the first layer's norm gives it
    energy += _MATCHED * _BEFORE**2
    second = _CODE / np.sqrt(energy / width)
    _looks_back(made, config, own, before, first)
    _looks_up(made, config, own, before, written, second)
    made["transformer.output_layer.weight"][:, own[0] :] = 0.0
    made["transformer.output_layer.weight"][:, written] = _LOGIT * codes
    return made


def _looks_back(
    made: dict[str, np.ndarray], config: ChatGLM2Config, own: np.ndarray, before: np.ndarray, size: float
) -> None:
    """The first head of the first layer: the code of the token before, into `before`."""
    name, channels = f"{_LAYER}0.{_ATTENTION}", config.kv_channels
    bias, weight = made[f"{name}query_key_value.bias"], made[f"{name}query_key_value.weight"]
    key = config.num_attention_heads * channels
    value = key + config.multi_query_group_num * channels
    weight[:channels], weight[key : key + channels] = 0.0, 0.0
    for pair, strength in enumerate(_NEAR):
        turn = 10000.0 ** (-2 * pair / (channels // 2))
        bias[2 * pair], bias[2 * pair + 1] = np.sqrt(strength) * np.cos(turn), -np.sqrt(strength) * np.sin(turn)
        bias[key + 2 * pair] = np.sqrt(strength)
    weight[value : value + channels] = 0.0
    weight[value + np.arange(_MATCHED), own[:_MATCHED]] = 1 / size
    dense = made[f"{name}dense.weight"]
    dense[:, :channels] = 0.0
    dense[before, np.arange(_MATCHED)] = _BEFORE


def _looks_up(
    made: dict[str, np.ndarray],
    config: ChatGLM2Config,
    own: np.ndarray,
    before: np.ndarray,
    written: np.ndarray,
    size: float,
) -> None:
    """The first head of the second layer: where the code before is one's own, the code there, into `written`."""
    name, channels = f"{_LAYER}1.{_ATTENTION}", config.kv_channels
    weight = made[f"{name}query_key_value.weight"]
    key = config.num_attention_heads * channels
    value = key + config.multi_query_group_num * channels
    still = np.arange(channels - _MATCHED, channels)  # channels that positions do not turn, or hardly
    for row, places in ((0, own[:_MATCHED]), (key, before)):
        weight[row : row + channels] = 0.0
        weight[row + still, places] = np.sqrt(_MATCH)
    weight[value : value + channels] = 0.0
    weight[value + np.arange(_BITS), own] = 1 / size
    dense = made[f"{name}dense.weight"]
    dense[:, :channels] = 0.0
    dense[written, np.arange(_BITS)] = _WRITTEN
