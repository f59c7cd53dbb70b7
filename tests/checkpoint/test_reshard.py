"""Divided checkpoints: MindSpore's strategy files and shards are read, ours are read by MindSpore, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest

from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt, save_ckpt
from mindformers_glm.checkpoint.store.reshard import RankFiles, RankPart, rank_files, transform
from mindformers_glm.checkpoint.store.strategy import Slicing, read_strategy, write_strategy
from mindformers_glm.errors import CheckpointError

CASES = {
    "tiny_fp16_dp1mp2": "model_fp16/tiny_fp16.ckpt",
    "micro_train_state_dp1mp2": "training/full/output/checkpoint/rank_0/glm2-6b_rank_0-1_8.ckpt",
    "micro_dp1mp4": None,
    "micro_dp2mp1_opt": None,
    "micro_dp2mp2_opt": None,
    "micro_lora_dp1mp2": "training/lora/output/checkpoint_network/rank_0/glm2-6b-lora_rank_0-network.ckpt",
}


@pytest.fixture
def sharded(golden):
    return golden / "mindformers_r08/sharded"


def tensors(path):
    file = open_ckpt(path)
    return {name: file.read_bits(name) for name in file.entries}


def assert_same(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        there = np.asarray(other[name])
        assert value.shape == there.shape and value.tobytes() == there.tobytes(), name


def write_whole(folder, arrays):
    (folder / "rank_0").mkdir(parents=True)
    save_ckpt(folder / "rank_0/whole.ckpt", arrays)
    return folder


@pytest.mark.parametrize("form", ["strategy", "ckpt_strategy.json", "merged_ckpt_strategy.ckpt"])
@pytest.mark.parametrize("case", CASES)
def test_mindspores_shards_merge_and_split_bit_for_bit(sharded, golden, tmp_path, case, form):
    strategy = read_strategy(sharded / case / form)
    source = RankFiles(sharded / case / "ckpt", strategy)
    (merged,) = transform(source, None, tmp_path / "whole", prefix="glm2_6b")
    assert merged == tmp_path / "whole/rank_0/glm2_6b0.ckpt"
    if CASES[case]:
        assert_same(tensors(golden / "mindformers_r08" / CASES[case]), tensors(merged))
    written = transform(RankFiles(tmp_path / "whole", None), strategy, tmp_path / "split")
    assert len(written) == strategy.ranks
    for rank, path in enumerate(written):
        assert_same(tensors(sharded / case / f"ckpt/rank_{rank}/checkpoint_{rank}.ckpt"), tensors(path))


def test_any_division_to_any_other(sharded, tmp_path):
    names = ("micro_dp1mp4", "micro_dp2mp1_opt", "micro_dp2mp2_opt")
    strategies = {name: read_strategy(sharded / name / "strategy") for name in names}
    for source in names:
        for target in names:
            folder = tmp_path / f"{source}-{target}"
            transform(RankFiles(sharded / source / "ckpt", strategies[source]), strategies[target], folder)
            for rank in range(strategies[target].ranks):
                expected = tensors(sharded / target / f"ckpt/rank_{rank}/checkpoint_{rank}.ckpt")
                assert_same(expected, tensors(folder / f"rank_{rank}/checkpoint_{rank}.ckpt"))


def test_weights_only_leaves_out_optimizer_and_counters(sharded, tmp_path):
    case = sharded / "micro_train_state_dp1mp2"
    (path,) = transform(RankFiles(case / "ckpt", read_strategy(case / "strategy")), None, tmp_path, weights_only=True)
    assert all(name.startswith("transformer.") for name in tensors(path))


def our_division(tp, dp):
    """A division like ours: weights over tp, moments over tp and dp."""
    matrix = (dp, tp)
    whole = {"embedding": (16, 4), "norm": (4,), "dense": (8, 8), "adam_m.embedding": (16, 4), "adam_m.dense": (8, 8)}
    slicings = {
        "embedding": Slicing(matrix, (0, -1)),
        "norm": Slicing(matrix, (-1,)),
        "dense": Slicing(matrix, (-1, 0)),
        "adam_m.embedding": Slicing(matrix, (0, -1), tp, dp),
        "adam_m.dense": Slicing(matrix, (-1, 0), tp, dp),
    }
    if dp == 1:
        slicings = {name: one._replace(opt_shard_step=0, opt_shard_size=0) for name, one in slicings.items()}
    return whole, slicings


@pytest.mark.parametrize("suffix", ["ckpt", "json"])
@pytest.mark.parametrize(("tp", "dp"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_mindspore_reads_ours_and_we_read_its(tmp_path, tp, dp, suffix):
    import mindspore  # noqa: PLC0415

    shapes, slicings = our_division(tp, dp)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["global_step"] = np.array([7], np.int32)
    write_whole(tmp_path / "whole", arrays)
    file = tmp_path / f"strategy/ckpt_strategy_rank_0.{suffix}"
    file.parent.mkdir()
    write_strategy(file, slicings)
    strategy = read_strategy(file)
    assert strategy.ranks == tp * dp and {n: s[0] for n, s in strategy.slicings.items()} == slicings

    ours = tmp_path / "ours"
    transform(RankFiles(tmp_path / "whole", None), strategy, ours)
    theirs = tmp_path / "theirs"
    mindspore.transform_checkpoints(str(tmp_path / "whole"), str(theirs), "checkpoint_", None, str(file))
    for rank in range(tp * dp):
        name = f"rank_{rank}/checkpoint_{rank}.ckpt"
        assert_same(tensors(theirs / name), tensors(ours / name))
    mindspore.transform_checkpoints(str(ours), str(tmp_path / "back"), "back", str(file), None)
    assert_same({name: value for name, value in arrays.items()}, tensors(tmp_path / "back/rank_0/back0.ckpt"))
    assert_same(arrays, dict(RankFiles(theirs, strategy)))


def test_moments_without_an_entry_follow_their_parameter(tmp_path):
    write_strategy(tmp_path / "s.json", {"dense": Slicing((1, 2), (0, -1))})
    strategy = read_strategy(tmp_path / "s.json")
    write_whole(
        tmp_path / "whole", {"dense": np.arange(8.0).reshape(4, 2), "adam_v.dense": np.arange(8.0).reshape(4, 2)}
    )
    part = RankPart(RankFiles(tmp_path / "whole", None), strategy, 1)
    assert part["adam_v.dense"].tolist() == part["dense"].tolist() == [[4, 5], [6, 7]]


def test_steps_are_numbers_and_common_to_all_ranks(tmp_path):
    for rank, steps in ((0, ("1_500", "1_1000", "2_4")), (1, ("1_500", "1_1000"))):
        (tmp_path / f"rank_{rank}").mkdir()
        for step in steps:
            save_ckpt(tmp_path / f"rank_{rank}/g_rank_{rank}-{step}.ckpt", {"x": np.zeros(1, np.float32)})
    assert [path.name for path in rank_files(tmp_path, 2)] == ["g_rank_0-1_1000.ckpt", "g_rank_1-1_1000.ckpt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "rank_1/checkpoint_1.ckpt").unlink(), "no checkpoint in rank_1"),
        (lambda f: save_ckpt(f / "rank_1/checkpoint_1.ckpt", {"other": np.zeros(2, np.float32)}), "are missing"),
    ],
)
def test_incomplete_folders_are_refused(tmp_path, change, said):
    write_strategy(tmp_path / "s.json", {"dense": Slicing((2,), (0, -1))})
    strategy = read_strategy(tmp_path / "s.json")
    write_whole(tmp_path / "whole", {"dense": np.zeros((4, 2), np.float32)})
    transform(RankFiles(tmp_path / "whole", None), strategy, tmp_path / "split")
    change(tmp_path / "split")
    with pytest.raises(CheckpointError, match="^[^\n]*$") as caught:
        transform(RankFiles(tmp_path / "split", strategy), None, tmp_path / "out")
    assert said in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.ckpt"))


def test_a_strategy_of_another_network_is_refused(tmp_path):
    write_strategy(tmp_path / "s.json", {"dense": Slicing((3,), (0, -1))})
    write_whole(tmp_path / "whole", {"dense": np.zeros((4, 2), np.float32)})
    with pytest.raises(CheckpointError, match="axis 0 has 4 entries, the strategy divides it by 3"):
        transform(RankFiles(tmp_path / "whole", None), read_strategy(tmp_path / "s.json"), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}", b"[1]", b'{"parallel_layout_item": {"a": 1}}'])
def test_files_that_are_no_strategy(tmp_path, content):
    for name in ("s.ckpt", "s.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="^[^\n]*$"):
            read_strategy(tmp_path / name)
    assert read_strategy("") is read_strategy("None") is read_strategy(None) is None


def test_tool_prints_and_writes_as_documented(sharded, root, tmp_path):
    case = sharded / "micro_lora_dp1mp2"
    before = {path: path.stat().st_mtime_ns for path in (case).rglob("*")}
    command = [sys.executable, str(root / "tools/transform_ckpt.py"), "--src_ckpt_strategy", str(case / "strategy")]
    command += ["--src_ckpt_dir", str(case / "ckpt"), "--dst_ckpt_dir", str(tmp_path / "target"), "--prefix", "glm2_6b"]
    done = forked.run(command)
    assert done.returncode == 0, done.stderr
    assert "......Start transform......" in done.stdout and "......Transform succeed!......" in done.stdout
    assert (tmp_path / "target/rank_0/glm2_6b0.ckpt").is_file()
    assert {path: path.stat().st_mtime_ns for path in (case).rglob("*")} == before
    wrong = subprocess.run(
        [*command[:-4], "--dst_ckpt_dir", ""], capture_output=True, text=True, timeout=120, check=False
    )
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1, wrong.stderr
    assert Path(case / "strategy").is_dir()
