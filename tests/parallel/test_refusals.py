"""What the axes of a job do not go together with is one line that names the key, before anything is built."""

from __future__ import annotations

import pytest

from mindformers_glm.config.sections import ParallelSection
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.parallelize import check_network
from mindformers_glm.parallel.mesh import make_mesh
from mindformers_glm.train.pipeline_step import pipeline_scheduler

SHAPE = {
    "num_layers": 4, "hidden_size": 16, "num_attention_heads": 4, "multi_query_group_num": 2, "kv_channels": 4,
    "ffn_hidden_size": 24, "padded_vocab_size": 32, "seq_length": 8,
}  # fmt: skip
DORA = {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0, "use_dora": True}
PREFIX = {"pre_seq_len": 4}


def config(**more):
    return ChatGLM2Config(**SHAPE, **more)


@pytest.mark.parametrize(
    ("sizes", "more", "key"),
    [
        ({"tp": 2}, {"pet_config": {**DORA, "target_modules": ".*query.*"}}, "pet_config.use_dora"),
        ({"pp": 2}, PREFIX, "pet_config.pet_type"),
        ({"cp": 2}, PREFIX, "pet_config.pet_type"),
        ({"tp": 3}, {}, "parallel_config.model_parallel"),
        ({"pp": 8}, {}, "parallel_config.pipeline_stage"),
        ({"pp": 2}, {"offset": [1, 1]}, "model_config.offset"),
    ],
)
def test_networks_that_cannot_be_divided_so(sizes, more, key):
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        check_network(config(**more), make_mesh(0, **sizes))
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"pipeline_interleave": True}, "parallel.pipeline_config.pipeline_interleave"),
        ({"pipeline_scheduler": "zero_bubble_v"}, "parallel.pipeline_config.pipeline_scheduler"),
    ],
)
def test_schedules_that_are_not_here(section, key):
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        pipeline_scheduler(ParallelSection(pipeline_config=section))
    assert key in str(caught.value)
    assert pipeline_scheduler(ParallelSection(pipeline_config={"pipeline_scheduler": "gpipe"})) == "gpipe"
