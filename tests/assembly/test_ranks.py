"""What a rank loads, writes and resumes, without starting processes: the slices are those that real ranks write."""

from __future__ import annotations

import json

import mindspore
import numpy as np
import pytest

from mindformers_glm.assembly.rank_state import Division, LocalState, RankState
from mindformers_glm.assembly.ranks import Ranks, saved_ranks
from mindformers_glm.assembly.weights import divided_weights
from mindformers_glm.checkpoint.convert import run_plan, save_directory
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt, save_ckpt
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.model_files import Storage
from mindformers_glm.checkpoint.store.resume import TrainState, read_train_state, to_ckpt
from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.config.schema import RunSchema
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.parallelize import local_size
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.parallel.mesh import SINGLE, make_mesh

CONFIG = ChatGLM2Config(
    num_layers=1, hidden_size=16, num_attention_heads=4, multi_query_group_num=2, kv_channels=4, ffn_hidden_size=24,
    padded_vocab_size=32, seq_length=8, param_init_type="float32", compute_dtype="float32",
)  # fmt: skip
SHAPES = expected_shapes(CONFIG)
DIVISIONS = [Division(1, 2), Division(1, 4), Division(2, 1, True), Division(2, 2, True), Division(4, 2), Division(2, 1)]


@pytest.fixture(scope="module")
def whole():
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    moments = {f"adam_m.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return weights, moments


def write_job(output, whole, division, step=(1, 3)):
    """The checkpoints and strategy files of a run of this division."""
    state = RankState(CONFIG, division, SHAPES)
    for rank in range(division.ranks):
        parts = [
            {name: value[state.slicing(name).window(name, value.shape, rank)] for name, value in kind.items()}
            for kind in whole
        ]
        saved = TrainState(
            0, step[1], step[1], weights=parts[0], optimizer=parts[1], data={"division": division.to_dict()}
        )
        name = f"g_rank_{rank}-{step[0]}_{step[1]}.ckpt"
        save_ckpt(output / f"checkpoint/rank_{rank}/{name}", *to_ckpt(saved))
        save_ckpt(output / f"checkpoint_network/rank_{rank}/g_rank_{rank}-network.ckpt", parts[0])
        state.write_strategy(output / "strategy", [*whole[0], *whole[1]], rank)
    return state


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
def test_one_device_loads_what_ranks_wrote(tmp_path, whole, division):
    write_job(tmp_path, whole, division)
    network = ChatGLM2ForConditionalGeneration(CONFIG)
    ranks = Ranks(SINGLE, CONFIG)
    for folder in ("checkpoint_network", "checkpoint"):
        ranks.load_weights(network, tmp_path / folder, new_adapter=False)
        for parameter in network.get_parameters():
            assert parameter.asnumpy().tobytes() == whole[0][parameter.name].tobytes(), parameter.name


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
def test_one_process_resumes_what_ranks_wrote(tmp_path, whole, division):
    write_job(tmp_path, whole, division, step=(1, 3))
    write_job(tmp_path, whole, division, step=(1, 12))
    assert saved_ranks(tmp_path) == saved_ranks(tmp_path / "checkpoint") == division.ranks
    network = ChatGLM2ForConditionalGeneration(CONFIG)
    path = tmp_path / "checkpoint/rank_0/g_rank_0-1_3.ckpt"
    state = Ranks(SINGLE, CONFIG).local_state(read_train_state(path), path, network)
    assert state.global_step == 3
    load_into(network, state.weights)
    for name, value in whole[1].items():
        assert state.optimizer[name].tobytes() == value.tobytes(), name


def test_a_division_keeps_its_name_of_before(whole):
    """Scripts cut with `layout`."""
    state = RankState(CONFIG, Division(1, 2), SHAPES)
    name = next(name for name in SHAPES if name.endswith("dense_4h_to_h.weight"))
    parts = [state.layout.cut(name, whole[0][name], rank) for rank in range(2)]
    assert np.concatenate(parts, 1).tobytes() == whole[0][name].tobytes()


@pytest.mark.parametrize("before", DIVISIONS, ids=str)
@pytest.mark.parametrize("after", DIVISIONS, ids=str)
def test_any_division_goes_on_as_any_other(tmp_path, whole, before, after):
    source = write_job(tmp_path, whole, before).read_whole(tmp_path / "checkpoint", step=(1, 3))
    state = RankState(CONFIG, after, SHAPES)
    parts = [LocalState(source, state, rank) for rank in range(after.ranks)]
    for kind in whole:
        for name, value in kind.items():
            assert state.merge(name, [part[name] for part in parts]).tobytes() == value.tobytes(), name


def test_a_missing_rank_is_named(tmp_path, whole):
    write_job(tmp_path, whole, Division(1, 2))
    (tmp_path / "checkpoint/rank_1/g_rank_1-1_3.ckpt").unlink()
    network = ChatGLM2ForConditionalGeneration(CONFIG)
    path = tmp_path / "checkpoint/rank_0/g_rank_0-1_3.ckpt"
    with pytest.raises(CheckpointError, match="no checkpoint in rank_1"):
        Ranks(SINGLE, CONFIG).local_state(read_train_state(path), path, network)


def test_strategies_of_another_division_are_set_aside_and_kept(tmp_path, whole):
    write_job(tmp_path, whole, Division(1, 2))
    before = {path.name: path.read_bytes() for path in (tmp_path / "strategy").glob("*.ckpt")}
    network = ChatGLM2ForConditionalGeneration(CONFIG)
    for _ in range(2):
        Ranks(SINGLE, CONFIG).write_strategy(tmp_path / "strategy", network)
    assert [path.name for path in (tmp_path / "strategy").glob("*.ckpt")] == ["ckpt_strategy_rank_0.ckpt"]
    kept = tmp_path / "strategy/previous_1"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert read_strategy(tmp_path / "strategy").ranks == 1 and read_strategy(kept).ranks == 2


def test_a_strategy_needs_a_folder(tmp_path):
    (tmp_path / "one.ckpt").write_bytes(b"")
    with pytest.raises(ConfigError, match="load_checkpoint"):
        divided_weights(tmp_path / "one.ckpt", str(tmp_path))
    assert divided_weights(tmp_path / "one.ckpt", None) is None


def test_grid_and_network_come_from_the_sections():
    run = {"use_parallel": False, "parallel": {"enable_parallel_optimizer": True}, "parallel_config": {}}
    ranks = Ranks.of(RunSchema.model_validate(run), CONFIG)
    assert ranks.mesh == SINGLE and not ranks.divided and ranks.on_disk(None) is None
    network = ranks.network(training=True)
    assert {parameter.name: tuple(parameter.shape) for parameter in network.get_parameters()} == SHAPES


@pytest.mark.parametrize("division", [Division(2, 2, True), Division(1, 4), Division(4, 2, True)], ids=str)
def test_mindspore_merges_whole_training_states(tmp_path, whole, division):
    write_job(tmp_path, whole, division)
    strategy = str(tmp_path / "strategy/ckpt_strategy_rank_0.ckpt")
    mindspore.transform_checkpoints(str(tmp_path / "checkpoint"), str(tmp_path / "out"), "glm2_6b", strategy)
    merged = open_ckpt(tmp_path / "out/rank_0/glm2_6b0.ckpt")
    for name, value in {**whole[0], **whole[1]}.items():
        assert merged.read_bits(name).tobytes() == value.tobytes(), name


def test_a_run_reads_rows_as_the_yaml_beside_the_weights_says(tmp_path, whole):
    """MindFormers 1.5 with use_rearrange_rope and separate parts, on one process and on each of two tensor ranks."""
    ours = save_directory(tmp_path / "ours", whole[0], CONFIG)
    storage = Storage(qkv_concat=False, mlp_concat=False, use_rearrange_rope=True)
    (tmp_path / "mf").mkdir()
    run_plan(plan_job(ours, tmp_path / "mf/x.ckpt", "mindformers-1.5", write_storage=storage))
    network = ChatGLM2ForConditionalGeneration(CONFIG)
    for place in (tmp_path / "mf", tmp_path / "mf/x.ckpt"):
        Ranks(SINGLE, CONFIG).load_weights(network, place, new_adapter=False)
        for parameter in network.get_parameters():
            assert parameter.asnumpy().tobytes() == whole[0][parameter.name].tobytes(), parameter.name
    for rank in range(2):
        mesh = make_mesh(rank, dp=1, tp=2)
        part = ChatGLM2ForConditionalGeneration(local_size(CONFIG, mesh))
        Ranks(mesh, CONFIG).load_weights(part, tmp_path / "mf/x.ckpt", new_adapter=False)
        local = LocalState(whole[0], RankState(CONFIG, Division(1, 2), SHAPES), rank)
        for parameter in part.get_parameters():
            assert parameter.asnumpy().tobytes() == local[parameter.name].tobytes(), parameter.name


def test_divided_weights_with_rearranged_rows_are_merged_first(tmp_path, whole):
    write_job(tmp_path, whole, Division(1, 2))
    model = {"model": {"model_config": {"type": "ChatGLM2Config", **CONFIG.model_dump(exclude_defaults=True)}}}
    model["model"]["model_config"]["use_rearrange_rope"] = True
    (tmp_path / "checkpoint_network/config.yaml").write_text(json.dumps(model))
    network = ChatGLM2ForConditionalGeneration(CONFIG)
    with pytest.raises(CheckpointError, match=r"use_rearrange_rope.*transform_ckpt"):
        Ranks(SINGLE, CONFIG).load_weights(network, tmp_path / "checkpoint_network", new_adapter=False)
