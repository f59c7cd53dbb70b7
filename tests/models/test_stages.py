"""Which stage holds what: MindFormers' placement, uneven offsets, tied tables."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.stages import Stages, stages_of
from mindformers_glm.models.glm.weights import HEAD, TABLE, expected_shapes


def network(layers=4, **changes):
    return ChatGLM2Config(num_layers=layers, hidden_size=32, num_attention_heads=4, kv_channels=8, **changes)


@pytest.mark.parametrize(
    ("layers", "size", "offset", "counts"),
    [
        (28, 4, 0, (7, 7, 7, 7)),
        (28, 4, [-1, 0, 0, 1], (6, 7, 7, 8)),
        (30, 4, [0, 1, 1, 0], (7, 8, 8, 7)),
        (30, 4, 0, (7, 7, 7, 9)),
        (28, 2, 1, (13, 15)),
    ],
)
def test_layers_of_stages(layers, size, offset, counts):
    assert stages_of(network(layers, offset=offset), size).counts == counts


@pytest.mark.parametrize(
    ("size", "offset", "key"),
    [
        (8, 0, "parallel_config.pipeline_stage"),
        (2, [1, 1], "model.model_config.offset"),
        (2, [0], "model.model_config.offset"),
        (2, [-2, 2], "model.model_config.offset"),
        (4, 3, "model.model_config.offset"),
    ],
)
def test_impossible_stages_are_one_line(size, offset, key):
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        stages_of(network(offset=offset), size)
    assert key in str(caught.value)


def test_every_weight_is_on_one_stage_and_a_tied_table_on_two():
    config = network()
    stages = stages_of(config, 2)
    assert {name: stages.of(name) for name in (TABLE, HEAD)} == {TABLE: (0,), HEAD: (1,)}
    assert all(len(stages.of(name)) == 1 for name in expected_shapes(config))
    assert stages.of("transformer.encoder.layers.1.mlp.dense_h_to_4h.weight") == (0,)
    assert stages.of("adam_m.transformer.encoder.layers.2.mlp.dense_h_to_4h.weight") == (1,)
    assert stages.of("transformer.encoder.final_layernorm.weight") == (1,)
    assert stages.of("global_step") == (0, 1)
    assert Stages((2, 2), tied=True).of(TABLE) == (0, 1)
    assert stages.part(1).whole_name("transformer.encoder.layers.0.x") == "transformer.encoder.layers.2.x"
