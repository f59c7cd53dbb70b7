"""Proposals: they keep the samples of a step, fit the memory that was named, and are settings that load."""

from __future__ import annotations

import pytest
import yaml

from mindformers_glm.cli import plan_memory
from mindformers_glm.config.names import CONFIGS_DIR
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.stages import stages_of
from mindformers_glm.parallel.memory import GB, Grid, Task, estimate
from mindformers_glm.parallel.proposal import Machine, cost, grids, proposals, settings_of

CONFIG = ChatGLM2Config()
TASK = Task(8, 192)


def found(devices=8, gigabytes=32, batch=64, task=TASK):
    machine = Machine(devices, gigabytes)
    return proposals(CONFIG, task, machine, batch=batch, stages=lambda size: stages_of(CONFIG, size).counts)


def test_every_proposal_fits_and_keeps_the_batch():
    all_of_them = found()
    assert all_of_them
    for one in all_of_them:
        assert one.grid.devices == 8
        assert one.grid.dp * one.micro * TASK.batch_size == 64
        assert one.memory.total / GB + 2 <= 32
        assert one.micro >= one.grid.pp
    assert [one.seconds for one in all_of_them] == pytest.approx(sorted(one.seconds for one in all_of_them), rel=1e-5)


def test_full_tuning_of_6b_fits_eight_small_devices_with_divided_weights():
    grid = Grid(dp=8, level=3)
    assert any(one.grid == grid for one in found())
    assert not any(one.grid == Grid(dp=8, level=level) for one in found() for level in (0, 1))
    assert estimate(CONFIG, TASK, grid=grid).total / GB < 16


def test_nothing_fits_a_device_that_is_too_small():
    assert found(devices=1, gigabytes=16) == []


def test_long_sequences_are_divided_too():
    assert {grid.cp for grid in grids(8, 32768)} == {1, 2, 4, 8}
    assert {grid.cp for grid in grids(8, 2048)} == {1}
    whole = estimate(CONFIG, Task(1, 32768), grid=Grid(tp=2))
    assert estimate(CONFIG, Task(1, 32768), grid=Grid(tp=2, cp=4)).activations < whole.activations / 2


def test_the_cost_model_counts_what_it_says():
    machine = Machine(2, 64, flops=1e12, bandwidth=1e9)
    trained = 2 * CONFIG.padded_vocab_size * CONFIG.hidden_size
    alone, nothing_sent = cost(CONFIG, TASK, Grid(), machine)
    assert nothing_sent == 0
    seconds, sent = cost(CONFIG, TASK, Grid(dp=2), machine)
    assert sent > trained  # each rank sends all gradients once, of two bytes each
    assert seconds == pytest.approx(alone + sent / machine.bandwidth)
    twice, _ = cost(CONFIG, TASK._replace(micro=2), Grid(), machine)
    assert twice == pytest.approx(2 * alone)
    stages, _ = cost(CONFIG, TASK._replace(micro=4), Grid(pp=2), machine)
    assert stages > 4 * alone / 2  # a stage waits while the pipeline fills


def test_the_written_file_asks_for_the_proposal(tmp_path, capsys):
    target = tmp_path / "planned.yaml"
    plan_memory.main(["--config", str(CONFIGS_DIR / "glm2/run_glm2_6b_finetune.yaml"), "--output_file", str(target)])
    assert "divisions fit" in capsys.readouterr().out
    written, best = yaml.safe_load(target.read_text(encoding="utf-8")), found()[0]
    for section, values in settings_of(best).items():
        assert values == (
            written[section] if not isinstance(values, dict) else {k: written[section][k] for k in values}
        )
    assert written["model"]["model_config"]["num_layers"] == 28
