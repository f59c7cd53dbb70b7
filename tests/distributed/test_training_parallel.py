"""Real processes under msrun: data, tensor and optimizer parallel training gives the numbers of one process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mindspore
import numpy as np
import pytest

from mindformers_glm.assembly.rank_state import Division, LocalState, RankState
from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt
from mindformers_glm.checkpoint.store.reshard import RankFiles
from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.models.glm.shards import Layout
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.registry import OPTIMIZERS

sys.path.insert(0, str(Path(__file__).parent))
from launched import run  # noqa: E402
from twenty_steps import tiny  # noqa: E402


def load(folder, variant):
    paths = sorted(folder.glob(f"{variant}.rank*.npz"), key=lambda path: int(path.stem.rpartition("rank")[2]))
    return [dict(np.load(path)) for path in paths]


def options_of(variant):
    return dict((word + "=").split("=")[:2] for word in variant.split(","))


def compare(folder, reference, variant):
    """Losses, gradient norms, weights and (undivided) optimizer state of every rank against one process."""
    options, one = options_of(variant), load(folder, reference)[0]
    dp, tp = int(options.get("dp", 1)), int(options.get("tp", 1))
    ranks, layout = load(folder, variant)[: dp * tp], Layout(tiny(options), tp)
    for rank in ranks:
        np.testing.assert_allclose(rank.pop("losses"), one["losses"], rtol=1e-5)
        np.testing.assert_allclose(rank.pop("norms"), one["norms"], rtol=1e-4)
    shapes = {name: value.shape for name, value in one.items() if not name.startswith("adam_")}  # with adapters
    state = RankState(tiny(options), Division(dp, tp, "sharded" in options), shapes)
    for name in ranks[0]:
        assert_close(name, state.merge(name, [rank[name] for rank in ranks]), one)
        for data in range(dp if not name.startswith("adam_") else 0):
            assert_close(name, layout.merge(name, [ranks[data * tp + tensor][name] for tensor in range(tp)]), one)


def assert_close(name, value, one):
    """Within 1e-5 of the largest entry; a key bias has no gradient, and Adam turns its rounding noise into steps."""
    expected, limit = one[name], 1e-4 if name.startswith("adam_") else 1e-5
    tiny_gradient = one[f"adam_v.{name}"] < 1e-10 if f"adam_v.{name}" in one else np.zeros(expected.shape, bool)
    difference = np.where(tiny_gradient, 0, np.abs(value - expected))
    assert difference.max() <= limit * np.abs(expected).max(), name


def check_files(folder, variant):
    """The written slices merge to what the ranks held, here and in MindSpore, and resume in any division."""
    options = options_of(variant)
    division = Division(int(options.get("dp", 1)), int(options.get("tp", 1)), "sharded" in options)
    config, ranks = tiny(options), load(folder, variant)[: division.ranks]
    state = RankState(config, division, expected_shapes(config))
    held = [{name: value for name, value in rank.items() if name not in ("losses", "norms")} for rank in ranks]
    whole = {name: state.merge(name, [rank[name] for rank in held]) for name in held[0]}
    source = state.read_whole(folder / variant)
    from_strategy = RankFiles(folder / variant, read_strategy(folder / variant / "strategy"))
    mindspore.transform_checkpoints(
        str(folder / variant),
        str(folder / f"{variant}-merged"),
        "m",
        str(folder / variant / "strategy/ckpt_strategy_rank_0.ckpt"),
    )
    merged = open_ckpt(folder / f"{variant}-merged/rank_0/m0.ckpt")
    for name, value in whole.items():
        for other in (source[name], from_strategy[name], merged.read_bits(name)):
            assert other.shape == value.shape and other.tobytes() == value.tobytes(), name
        for rank in range(division.ranks):
            assert LocalState(source, state, rank)[name].tobytes() == held[rank][name].tobytes(), name
    assert source["global_step"].tolist() == [3]


@pytest.mark.dist
def test_two_processes_equal_one(tmp_path):
    """Twenty steps: two data ranks (accumulating), two tensor ranks, two data ranks with divided state."""
    variants = ("dp=2,accumulate=2", "tp=2", "dp=2,sharded")
    run(tmp_path, 2, "dp=1", *variants)
    for variant in variants:
        compare(tmp_path, "dp=1", variant)
        check_files(tmp_path, variant)
    divided = load(tmp_path, "dp=2,sharded")
    table = "adam_m.transformer.embedding.embedding_table"
    assert [rank[table].shape[0] for rank in divided] == [52, 52]
    first = load(tmp_path, "dp=1")[0]["losses"]
    assert first[-1] < first[0]


@pytest.mark.dist
@pytest.mark.slow
def test_tensor_ranks_share_groups_adapters_and_biases(tmp_path):
    """One key-value group on two ranks, LoRA on every layer, biases: gradients that need completing."""
    pairs = [(f"dp=1,{options}", f"tp=2,{options}") for options in ("groups=1,bias,steps=6", "groups=1,lora,steps=6")]
    run(tmp_path, 2, *(variant for pair in pairs for variant in pair))
    for reference, variant in pairs:
        compare(tmp_path, reference, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_four_processes_equal_one(tmp_path):
    """Two by two, four tensor ranks on two key-value groups, and both with divided state or adapters."""
    variants = ("dp=2,tp=2", "tp=4", "dp=2,tp=2,sharded", "dp=4,sharded")
    run(tmp_path, 4, "dp=1", *variants, timeout=1200)
    for variant in variants:
        compare(tmp_path, "dp=1", variant)
        check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_every_optimizer_resumes_in_two_processes(tmp_path):
    """Stopped in the middle: bit for bit in the same division, as one process in another (rows for columns)."""
    names = sorted({OPTIMIZERS.get(name).__name__ for name in OPTIMIZERS.names()} - {"Lamb", "AdaFactor"})
    run(tmp_path, 2, *names, script="optimizer_resume.py", timeout=3000)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert sorted(found) == names
        assert all(one["same"] for one in found.values()), found
        assert max(one["other"] for one in found.values()) < 1e-5, found
