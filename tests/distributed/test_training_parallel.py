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
from mindformers_glm.models.glm.shards import TensorDivision
from mindformers_glm.models.glm.stages import stages_of
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
    division, ranks = division_of(options), load(folder, variant)
    whole = TensorDivision(tiny(options), division.tp)
    assert len(ranks) == division.ranks
    for rank in ranks:
        np.testing.assert_allclose(rank.pop("losses"), one["losses"], rtol=1e-5)
        np.testing.assert_allclose(rank.pop("norms"), one["norms"], rtol=1e-4)
    shapes = {name: value.shape for name, value in one.items() if not name.startswith("adam_")}  # with adapters
    state, seen = RankState(tiny(options), division, shapes), set()
    for stage in range(division.stages):
        group = ranks[stage * division.devices : (stage + 1) * division.devices]
        seen |= set(group[0])
        for name in group[0]:
            assert stage in state.stages.of(name), name
            assert_close(name, state.merge(name, [rank[name] for rank in group]), one)
            for data in range(division.dp if not name.startswith("adam_") and not division.weights else 0):
                parts = [group[data * division.tp + tensor][name] for tensor in range(division.tp)]
                assert_close(name, whole.merge(name, parts), one)
    assert seen == set(one) - {"losses", "norms"}


def division_of(options):
    dp, tp, pp, cp = (int(options.get(name, 1)) for name in ("dp", "tp", "pp", "cp"))
    layers = stages_of(tiny(options), pp).counts if pp > 1 else ()
    zero = int(options.get("zero", 0))
    return Division(dp * cp, tp, "sharded" in options or zero > 0, layers, zero == 3)


def assert_close(name, value, one):
    """Within 1e-5 of the largest entry; a key bias has no gradient, and Adam turns its rounding noise into steps."""
    expected, limit = one[name], 1e-4 if name.startswith("adam_") else 1e-5
    tiny_gradient = one[f"adam_v.{name}"] < 1e-10 if f"adam_v.{name}" in one else np.zeros(expected.shape, bool)
    difference = np.where(tiny_gradient, 0, np.abs(value - expected))
    assert difference.max() <= limit * np.abs(expected).max(), name


def check_files(folder, variant):
    """The written slices merge to what the ranks held, here and in MindSpore, and resume in any division."""
    options = options_of(variant)
    division = division_of(options)
    config, ranks = tiny(options), load(folder, variant)
    state = RankState(config, division, expected_shapes(config))
    held = [{name: value for name, value in rank.items() if name not in ("losses", "norms")} for rank in ranks]
    whole = {}
    for stage in range(division.stages):
        group = held[stage * division.devices : (stage + 1) * division.devices]
        whole.update({name: state.merge(name, [rank[name] for rank in group]) for name in group[0]})
    source = state.read_whole(folder / variant)
    from_strategy = RankFiles(folder / variant, read_strategy(folder / variant / "strategy"))
    strategies = folder / variant / "strategy"
    one_file = strategies / "ckpt_strategy_rank_0.ckpt"
    if division.stages > 1:
        one_file = folder / f"{variant}-strategy.ckpt"
        mindspore.merge_pipeline_strategys(str(strategies), str(one_file))
    mindspore.transform_checkpoints(str(folder / variant), str(folder / f"{variant}-merged"), "m", str(one_file))
    merged = open_ckpt(folder / f"{variant}-merged/rank_0/m0.ckpt")
    for name, value in whole.items():
        for other in (source[name], from_strategy[name], merged.read_bits(name)):
            assert other.shape == value.shape and other.tobytes() == value.tobytes(), name
    for rank in range(division.ranks):
        local = LocalState(source, state, rank)
        assert set(local) == {*held[rank], "global_step"}
        assert all(local[name].tobytes() == value.tobytes() for name, value in held[rank].items())
    assert source["global_step"].tolist() == [3]


@pytest.mark.dist
@pytest.mark.parametrize(
    ("reference", "variants"),
    [
        ("dp=1,layers=1", ("tp=2,layers=1", "dp=2,sharded,layers=1")),
        pytest.param("dp=1", ("dp=2,accumulate=2", "tp=2", "dp=2,sharded"), marks=pytest.mark.slow),
    ],
    ids=["one layer", "two layers"],
)
def test_two_processes_equal_one(tmp_path, reference, variants):
    """Twenty steps: two data ranks (accumulating), two tensor ranks, two data ranks with divided state."""
    run(tmp_path, 2, reference, *variants)
    for variant in variants:
        compare(tmp_path, reference, variant)
        check_files(tmp_path, variant)
    divided = load(tmp_path, variants[-1])
    table = "adam_m.transformer.embedding.embedding_table"
    assert [rank[table].shape[0] for rank in divided] == [52, 52]
    first = load(tmp_path, reference)[0]["losses"]
    assert first[-1] < first[0]


@pytest.mark.dist
@pytest.mark.slow
def test_two_stages_equal_one(tmp_path):
    """Four micro batches in both schedules, tied embeddings, LoRA; layers not equal on the stages."""
    variants = ("pp=2,accumulate=4", "pp=2,accumulate=2,scheduler=gpipe,layers=3,tied", "pp=2,accumulate=4,lora")
    references = ("dp=1,accumulate=4", "dp=1,accumulate=2,layers=3,tied", "dp=1,accumulate=4,lora")
    run(tmp_path, 2, *references, *variants, timeout=1200)
    for reference, variant in zip(references, variants, strict=True):
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_divided_sequences_equal_one(tmp_path):
    """Context parallel (each rank half of every sequence); tensor ranks that divide rows between their layers."""
    variants = ("cp=2,bias,accumulate=2", "cp=2,recompute", "tp=2,rows,bias,accumulate=2", "tp=2,rows,recompute,lora")
    references = ("dp=1,bias,accumulate=2", "dp=1,recompute", "dp=1,bias,accumulate=2", "dp=1,recompute,lora")
    run(tmp_path, 2, *dict.fromkeys(references), *variants, timeout=1200)
    for reference, variant in zip(references, variants, strict=True):
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_divided_gradients_and_weights_equal_one(tmp_path):
    """ZeRO 2 and 3 with two replicas: accumulating, recomputed, tied, with adapters."""
    variants = (
        "dp=2,zero=2,accumulate=2",
        "dp=2,zero=3,accumulate=2",
        "dp=2,zero=3,recompute,tied",
        "dp=2,zero=3,lora",
    )
    references = ("dp=1,accumulate=2", "dp=1,accumulate=2", "dp=1,recompute,tied", "dp=1,lora")
    run(tmp_path, 2, *dict.fromkeys(references), *variants, timeout=1200)
    for reference, variant in zip(references, variants, strict=True):
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


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
    variants = ("dp=2,tp=2", "tp=4", "dp=2,tp=2,sharded", "dp=4,sharded", "dp=2,tp=2,zero=2", "dp=2,tp=2,zero=3")
    run(tmp_path, 4, "dp=1", *variants, timeout=2400)
    for variant in variants:
        compare(tmp_path, "dp=1", variant)
        check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_four_processes_in_stages_equal_one(tmp_path):
    """Two stages of two tensor or data ranks, four stages, and what divides weights or sequences within a stage."""
    pairs = {
        "pp=2,tp=2,accumulate=2": "dp=1,accumulate=2",
        "pp=2,dp=2,accumulate=2": "dp=1,accumulate=2",
        "pp=2,dp=2,zero=3,accumulate=2,tied": "dp=1,accumulate=2,tied",
        "pp=2,cp=2,accumulate=2": "dp=1,accumulate=2",
        "pp=2,tp=2,rows,accumulate=2,lora": "dp=1,accumulate=2,lora",
        "pp=4,accumulate=4,layers=5": "dp=1,accumulate=4,layers=5",
        "dp=2,cp=2,zero=3": "dp=1",
    }
    run(tmp_path, 4, *dict.fromkeys(pairs.values()), *pairs, timeout=2400)
    for variant, reference in pairs.items():
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_resumes_in_any_other_division(tmp_path):
    """Bit for bit in the same one, as one process in another: stages, sequences, tensors, gradients and weights."""
    pairs = ["stages:weights", "weights:sequence", "sequence:tp", "tp:stages", "gradients:one"]
    run(tmp_path, 2, *(f"AdamW:{pair}" for pair in pairs), script="optimizer_resume.py", timeout=3000)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(found) == len(pairs)
        assert all(one["same"] for one in found.values()), found
        assert max(one["other"] for one in found.values()) < 1e-5, found


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
