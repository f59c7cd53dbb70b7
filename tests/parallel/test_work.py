"""Operations of a training step, by what of the network it trains."""

from __future__ import annotations

import math

import pytest

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.training import is_frozen, trained_part
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.parallel.memory import count_parameters
from mindformers_glm.parallel.work import Trained, attention_flop, head_weights, layer_weights, training_flop

SIZES = {
    "num_layers": 4,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "padded_vocab_size": 96,
    "kv_channels": 8,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "seq_length": 16,
}


@pytest.fixture(scope="module")
def config():
    return ChatGLM2Config(**SIZES)


def test_forward_passes_and_gradients_are_counted_apart(config):
    tokens, weights = 2 * 16, layer_weights(config) + head_weights(config)
    seen = 2 * attention_flop(config, new=16, past=0)
    assert training_flop(config, sequences=2, length=16) == tokens * 6 * weights + 3 * seen
    lora = training_flop(config, sequences=2, length=16, trained=Trained(0, adapters=10))
    assert lora == tokens * (4 * weights + 60) + 3 * seen
    head = training_flop(config, sequences=2, length=16, trained=Trained(head_weights(config), layers_before=4))
    assert head == tokens * (2 * layer_weights(config) + 6 * head_weights(config)) + seen


@pytest.mark.parametrize(
    ("first", "include", "exclude", "layers_before"),
    [
        (0, (), (), 0),
        (3, (), (), 3),
        (3, (), ("*.1.*",), 1),
        (0, ("*dense*",), (), 0),
        (4, (), (), 4),
        (2, (), ("*embedding_table",), 0),
    ],
)
def test_what_is_trained_follows_from_what_is_frozen(config, first, include, exclude, layers_before):
    frozen = {name: is_frozen(name, first, include, exclude) for name in expected_shapes(config)}
    found = trained_part(config, lambda name: not frozen[name])
    matrices = {
        name: a * b for name, (a, *rest) in expected_shapes(config).items() for b in rest if "table" not in name
    }
    assert found == Trained(sum(size for name, size in matrices.items() if not frozen[name]), 0, layers_before)
    assert (found.weights == layer_weights(config) + head_weights(config)) == (
        not any(frozen[name] for name in matrices)
    )


def test_parameters_are_those_of_the_table_of_weights(config):
    assert sum(count_parameters(config)) == sum(math.prod(shape) for shape in expected_shapes(config).values())
