"""What a folder is: weights among leftovers of trainers, two indexes, cache entries, and folders that only look so."""

import json
import shutil

import numpy as np
import pickled
import pytest

from mindformers_glm.checkpoint.load.folders import files_of, snapshot
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import UserError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:9a1c\nsize 1827781090\n"


@pytest.fixture
def sharded(golden, tmp_path):
    """The official folder of two .bin shards with their index."""
    folder = tmp_path / "official"
    shutil.copytree(golden / "hf_glm2_tiny/bin", folder)
    return folder


def said(function, *arguments) -> str:
    with pytest.raises(UserError, match="^[^\n]*$") as caught:
        function(*arguments)
    return str(caught.value)


def test_states_of_trainers_and_strategies_are_no_weights(sharded):
    names = [path.name for path in files_of(sharded)]
    (sharded / "pytorch_model.bin.index.json").unlink()
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "training_args.bin",
        "rng_state_0.pth",
        "scaler.pt",
        "optimizer_1.bin",
    ):
        (sharded / name).write_bytes(b"not to be opened")
    (sharded / "ckpt_strategy_rank_0.ckpt").write_bytes(b"not to be opened")
    assert [path.name for path in files_of(sharded)] == names


def test_of_two_indexes_the_one_whose_shards_are_there(sharded):
    names = [path.name for path in files_of(sharded)]
    index = json.loads((sharded / "pytorch_model.bin.index.json").read_text())
    table = {name: file.replace(".bin", ".safetensors") for name, file in index["weight_map"].items()}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert [path.name for path in files_of(sharded)] == names
    for name in set(table.values()):  # pointers of git-lfs are not there either
        (sharded / name).write_bytes(LFS)
    assert [path.name for path in files_of(sharded)] == names
    for name in names:
        (sharded / name).unlink()
    for name in set(table.values()):
        (sharded / name).unlink()
    assert "2 of 2 shards are missing" in said(files_of, sharded)


def test_an_index_without_any_shard_gives_way_to_a_whole_file(sharded, golden):
    for path in sharded.glob("*.bin"):
        path.unlink()
    shutil.copy(golden / "hf_glm2_tiny/model.safetensors", sharded)
    assert files_of(sharded) == [sharded / "model.safetensors"]


def test_two_numbered_sets_without_index(golden, tmp_path):
    for path in (golden / "hf_glm2_tiny/bin").glob("*.bin"):
        shutil.copy(path, tmp_path)
    (tmp_path / "model-00001-of-00003.safetensors").write_bytes(b"alone")
    assert [path.suffix for path in files_of(tmp_path)] == [".bin", ".bin"]


def test_a_folder_whose_only_weights_are_pth(tmp_path):
    pickled.save(tmp_path / "state.pth", {"transformer.output_layer.weight": np.ones((2, 2), np.float32)})
    assert resolve(tmp_path).read().names == ["transformer.output_layer.weight"]


def test_the_root_of_a_cache_entry_is_its_snapshot(golden, tmp_path):
    root = tmp_path / "models--THUDM--chatglm3-6b"
    for name in ("aaa", "bbb"):
        (root / "snapshots" / name).mkdir(parents=True)
        for file in ("model.safetensors", "config.json"):
            (root / "snapshots" / name / file).symlink_to(golden / "hf_glm3_tiny" / file)
    assert "snapshots/aaa, snapshots/bbb" in said(resolve, root)
    (root / "refs").mkdir()
    (root / "refs/main").write_text("bbb")
    assert snapshot(root) == resolve(root).weights == root / "snapshots/bbb"
    (root / "refs/main").write_text("../../elsewhere")
    assert "snapshots/aaa" in said(resolve, root)
    assert "models--THUDM--chatglm3-6b" in said(resolve, tmp_path)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["zero_to_fp32.py", "latest", "global_step5/zero_pp_rank_0_mp_rank_00_model_states.pt"], "zero_to_fp32.py"),
        (["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32.py"),
        (["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"], "accelerate merge-weights"),
        (["iter_0000001/mp_rank_00/model_optim_rng.pt"], "convert_weight.py"),
        (["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"], "checkpoint-500"),
        (["model.safetensors.incomplete"], "did not end"),
        (["flax_model.msgpack"], "flax_model.msgpack"),
        (["README.md"], "no weights in this folder"),
    ],
)
def test_a_folder_without_weights_says_what_it_is(tmp_path, names, word):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert word in said(resolve, tmp_path)
    assert word in said(read_weights, tmp_path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (LFS, "git lfs pull"),
        (b"\n <!DOCTYPE html>\n<html><title>Sign in</title></html>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "HTML page"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
    ],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "x.ckpt"])
def test_what_stands_for_weights_is_named(tmp_path, content, word, name):
    (tmp_path / name).write_bytes(content)
    assert word in said(read_weights, tmp_path) and "MindSpore checkpoint (" not in said(read_weights, tmp_path)
