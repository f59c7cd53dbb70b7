"""The memory formula counts what a network really has, and the table in the documents is its output."""

from __future__ import annotations

import math
import subprocess
import sys

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.shards import local_config
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.parallel.memory import Task, count_parameters, estimate


def test_parameters_are_those_of_the_network():
    config = ChatGLM2Config()
    assert sum(count_parameters(config)) == sum(math.prod(shape) for shape in expected_shapes(config).values())
    assert sum(count_parameters(config)) == 6_243_584_000


def test_weights_of_a_tensor_rank_are_those_of_its_network():
    config = ChatGLM2Config()
    shapes = expected_shapes(local_config(config, 2))
    kinds = {name: 4 if "norm" in name or "embedding" in name else 2 for name in shapes}
    held = sum(math.prod(shape) * kinds[name] for name, shape in shapes.items())
    assert math.isclose(estimate(config, Task(1, 128), tp=2).weights, held)


def test_more_ranks_need_less():
    config, task = ChatGLM2Config(), Task(batch_size=2, seq_length=2048)
    whole = estimate(config, task, dp=8)
    divided, cut = estimate(config, task, dp=8, divided=True), estimate(config, task, dp=8, tp=2)
    assert divided.optimizer == whole.optimizer / 8 and divided.weights == whole.weights
    assert cut.total < whole.total and cut.activations < whole.activations
    assert estimate(config, task._replace(lora_rank=8)).optimizer < 1e9


def test_the_documented_table_is_what_the_tool_prints(root):
    done = subprocess.run(
        [sys.executable, str(root / "tools/plan_memory.py")], capture_output=True, text=True, timeout=60, check=True
    )
    document = (root / "docs/distributed.md").read_text(encoding="utf-8")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| run_")]
    assert len(rows) > 20
    assert [row for row in rows if row not in document] == []
