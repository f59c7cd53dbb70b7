"""Rows on their way through a model of which one layer is in memory at a time."""

from __future__ import annotations

import weakref

from mindformers_glm.assembly.configuration import config_of
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.quantization.walk import Walk


def test_a_stage_is_gone_when_the_next_is_there():
    base = parts_of("glm2_tiny").base
    walk = Walk(base.read(), config_of(base), [[5, 6, 7]])
    stage = walk.layer(0)
    before = weakref.ref(stage)
    del stage
    walk.layer(1)
    assert before() is None
