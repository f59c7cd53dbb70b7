"""The memory formula counts what a network really has, and the table in the documents is its output."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from mindformers_glm.assembly.reduction import divided_optimizer
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.divide import divide_weights
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.parallelize import local_size
from mindformers_glm.models.glm.shards import local_config
from mindformers_glm.models.glm.stages import stages_of
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.optim import AdamW, decay_groups, state_parameters
from mindformers_glm.parallel import optimizer as divided_module
from mindformers_glm.parallel import sharding
from mindformers_glm.parallel.memory import Grid, Task, count_parameters, estimate
from mindformers_glm.parallel.mesh import make_mesh


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


ADAPTER = {
    "pet_type": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": ".*query_key_value*"
}  # fmt: skip


def held(parameters):
    return sum(parameter.size * parameter.itemsize for parameter in parameters)


@pytest.mark.parametrize(
    ("dp", "tp", "divided"), [(1, 1, False), (1, 2, False), (2, 1, True), (2, 2, True), (4, 1, True)]
)
@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_bytes_of_a_rank_are_those_that_it_holds(monkeypatch, kind, lora, dp, tp, divided):
    """Weights, gradients and optimizer state of a real network and optimizer, against the formula."""
    monkeypatch.setattr(divided_module, "gather_operator", lambda axis: None)  # nothing is exchanged here
    config = ChatGLM2Config(
        num_layers=2, hidden_size=256, num_attention_heads=8, multi_query_group_num=2, kv_channels=32,
        ffn_hidden_size=512, padded_vocab_size=512, seq_length=64, param_init_type=kind, compute_dtype=kind,
        pet_config=ADAPTER if lora else None,
    )  # fmt: skip
    mesh = make_mesh(0, dp=dp, tp=tp)
    network = ChatGLM2ForConditionalGeneration(local_size(config, mesh))
    trained = network.trainable_params()
    optimizer = divided_optimizer(lambda parts: AdamW(decay_groups(parts, 0.1)), trained, mesh, divide=divided)
    state = held(state_parameters(optimizer).values())
    if divided:
        state += held(part for part, cut in zip(optimizer.parts, optimizer.divided, strict=True) if cut)
    memory = estimate(config, Task(1, 64, lora_rank=8 if lora else 0), dp=dp, tp=tp, divided=divided)
    assert memory.weights == held(network.get_parameters())
    assert memory.gradients == held(trained)
    assert memory.optimizer == pytest.approx(state, rel=1e-3)


FORMS = {
    "one process": Grid(),
    "dp 2, level 1": Grid(dp=2, level=1),
    "dp 2, level 2": Grid(dp=2, level=2),
    "dp 2, level 3": Grid(dp=2, level=3),
    "tp 2": Grid(tp=2),
    "tp 2, use_seq_parallel": Grid(tp=2, rows=True),
    "pp 2": Grid(pp=2),
    "cp 2, level 1": Grid(cp=2, level=1),
    "pp 2, tp 2": Grid(tp=2, pp=2),
    "pp 2, dp 2, level 1": Grid(dp=2, pp=2, level=1),
    "pp 2, dp 2, level 3": Grid(dp=2, pp=2, level=3),
    "dp 2, tp 2, level 1": Grid(dp=2, tp=2, level=1),
    "dp 2, tp 2, level 2": Grid(dp=2, tp=2, level=2),
    "dp 2, tp 2, level 3": Grid(dp=2, tp=2, level=3),
    "dp 2, cp 2, level 3": Grid(dp=2, cp=2, level=3),
}


@pytest.fixture
def nothing_is_exchanged(monkeypatch):
    monkeypatch.setattr(divided_module, "gather_operator", lambda axis: None)
    monkeypatch.setattr(sharding, "gather_operator", lambda axis: None)
    monkeypatch.setattr(sharding, "ScatterSum", lambda axis: None)


def measured_and_planned(grid, *, lora):
    """(weights, gradients, state) that each stage's real network and optimizer hold, and the planner's memory."""
    config = ChatGLM2Config(
        num_layers=3, hidden_size=128, num_attention_heads=8, multi_query_group_num=2, kv_channels=16,
        ffn_hidden_size=256, padded_vocab_size=512, seq_length=64, param_init_type="float16", compute_dtype="float16",
        pet_config=ADAPTER if lora else None,
    )  # fmt: skip
    stages, seen, level = stages_of(config, grid.pp), [], grid.level
    for stage in range(grid.pp):
        mesh = make_mesh(stage * grid.replicas * grid.tp, dp=grid.dp, tp=grid.tp, pp=grid.pp, cp=grid.cp)
        network = ChatGLM2ForConditionalGeneration(local_size(config, mesh), part=stages.part(stage))
        if level == 3:
            divide_weights(network, config, mesh.replicas)
        trained = network.trainable_params()
        optimizer = divided_optimizer(
            lambda parts: AdamW(decay_groups(parts, 0.1)), trained, mesh, divide=level in (1, 2), owns_gradients=True
        )
        state = held(state_parameters(optimizer).values())
        gradients, sums = held(trained), 4 * sum(parameter.size for parameter in trained)
        if level in (1, 2):
            state += held(part for part, cut in zip(optimizer.parts, optimizer.divided, strict=True) if cut)
        if level == 2:
            gradients, sums = gradients / grid.replicas, sums / grid.replicas
        seen.append((held(network.get_parameters()), gradients + sums, state))
    task = Task(1, 64, lora_rank=8 if lora else 0, micro=2)
    return seen, estimate(config, task, grid=grid, layers=stages.counts)


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("form", FORMS)
def test_bytes_of_every_form(nothing_is_exchanged, form, lora):
    """The rank that holds most: weights, gradients with the sums of micro batches, optimizer state."""
    seen, memory = measured_and_planned(FORMS[form], lora=lora)
    assert any(memory[:3] == pytest.approx(one, rel=0.01) for one in seen), (memory, seen)
    assert sum(memory[:3]) == pytest.approx(max(sum(one) for one in seen), rel=0.05)


def test_the_documented_bytes_are_those_held(nothing_is_exchanged, root):
    document, rows = (root / "docs/distributed.md").read_text(encoding="utf-8"), []
    for form, grid in FORMS.items():
        seen, memory = measured_and_planned(grid, lora=False)
        weights, gradients, state = (f"{size / 1e3:.0f}" for size in max(seen, key=sum))
        planned, most = sum(memory[:3]), max(map(sum, seen))
        figures = f"{weights} | {gradients} | {state} | {most / 1e3:.0f} | {planned / 1e3:.0f}"
        rows.append(f"| {form} | {figures} | {100 * abs(planned / most - 1):.1f} % |")
    print("\n".join(rows))
    assert [row for row in rows if row not in document] == []


def test_more_ranks_need_less():
    config, task = ChatGLM2Config(), Task(batch_size=2, seq_length=2048)
    whole = estimate(config, task, dp=8)
    divided, cut = estimate(config, task, dp=8, divided=True), estimate(config, task, dp=8, tp=2)
    assert divided.optimizer == (whole.optimizer + whole.gradients) / 8 and divided.weights == whole.weights
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
