"""What data ranks divide, in this project's words and in those of PyTorch's FSDP."""

from __future__ import annotations

import pytest

from mindformers_glm.assembly.ranks import zero_level
from mindformers_glm.config.sections import ParallelSection, ParallelSizesSection
from mindformers_glm.errors import ConfigError


@pytest.mark.parametrize(
    ("parallel", "level"),
    [
        ({}, 0),
        ({"enable_parallel_optimizer": True}, 1),
        ({"zero_level": 2}, 2),
        ({"zero_level": 0, "enable_parallel_optimizer": True}, 0),
        ({"fsdp": "full_shard auto_wrap"}, 3),
        ({"fsdp": "shard_grad_op"}, 2),
        ({"fsdp": "no_shard"}, 0),
        ({"fsdp": "full_shard", "zero_level": 3}, 3),
    ],
)
def test_levels(parallel, level):
    assert zero_level(ParallelSection(**parallel), ParallelSizesSection()) == level


@pytest.mark.parametrize(
    "parallel",
    [
        {"fsdp": "full_shard offload"},
        {"fsdp": "auto_wrap"},
        {"fsdp": "full_shard shard_grad_op"},
        {"fsdp": "full_shard", "zero_level": 2},
    ],
)
def test_words_that_say_nothing_are_one_line(parallel):
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        zero_level(ParallelSection(**parallel), ParallelSizesSection())
    assert "parallel." in str(caught.value)


def test_an_optimizer_that_mindformers_does_not_divide():
    assert zero_level(ParallelSection(enable_parallel_optimizer=True), ParallelSizesSection(optimizer_shard=False)) == 0
