"""What ranks of a division left behind (see twenty_steps.py) against one process, and their files against both."""

from __future__ import annotations

import mindspore
import numpy as np
from twenty_steps import options_of, tiny

from mindformers_glm.assembly.rank_state import Division, LocalState, RankState
from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt
from mindformers_glm.checkpoint.store.reshard import RankFiles
from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.models.glm.shards import TensorDivision
from mindformers_glm.models.glm.stages import stages_of
from mindformers_glm.models.glm.weights import expected_shapes


def load(folder, variant):
    paths = sorted(folder.glob(f"{variant}.rank*.npz"), key=lambda path: int(path.stem.rpartition("rank")[2]))
    return [dict(np.load(path)) for path in paths]


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
