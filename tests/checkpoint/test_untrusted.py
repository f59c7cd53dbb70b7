"""Untrusted files: names that lead out of their folder, JSON of any depth, pipes, configurations that lie."""

import contextlib
import errno
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from conversions import TINY, tiny_arrays

from mindformers_glm.checkpoint.convert import save_directory
from mindformers_glm.checkpoint.convert.checks import check_weights_fit
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.convert.megatron import MegatronWeights, write_megatron
from mindformers_glm.checkpoint.convert.verify import verify
from mindformers_glm.checkpoint.formats.folder import JOURNAL, UNFINISHED, read_manifest
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.checkpoint.load.peft import read_adapter_config
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.checkpoint.store import reshard
from mindformers_glm.checkpoint.store.reshard import RankFiles, rank_files, transform
from mindformers_glm.checkpoint.store.saved import resume_file
from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.errors import CheckpointError, UserError

DEEP = "[" * 100_000
OUTSIDE = ["../precious.txt", "/etc/hostname", "..", "a/../../precious.txt", "a\\b", "", "x" * 300, "link"]


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("thesis")
    return path


def name_in_manifest(folder, name) -> None:
    if name == "link":
        (folder / name).symlink_to("../precious.txt")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": 6, "sha256": hashlib.sha256(b"thesis").hexdigest()}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_files_of_its_folder_alone(ours, precious, name):
    name_in_manifest(ours, name)
    before = sorted(path.name for path in ours.iterdir())
    with pytest.raises(CheckpointError, match="manifest.json: it names a file outside its folder"):
        verify(ours)
    with pytest.raises(CheckpointError, match="outside its folder"):
        save_directory(ours, tiny_arrays(), TINY, overwrite=True)
    assert precious.read_text() == "thesis" and sorted(path.name for path in ours.iterdir()) == before


@pytest.mark.parametrize("files", [[], None, {"a": []}, {"a": {"bytes": "6", "sha256": ""}}, {"a": {"bytes": -1}}])
def test_a_damaged_table_of_files_is_named(ours, files):
    manifest = json.loads((ours / "manifest.json").read_text())
    (ours / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(CheckpointError, match=r"manifest\.json: its table of files is damaged"):
        verify(ours)


def test_a_journal_deletes_nothing_outside(tmp_path, precious):
    work = tmp_path / ("out" + UNFINISHED)
    work.mkdir()
    for files in ({"../precious.txt": {"bytes": 6, "sha256": ""}}, ["../precious.txt"]):
        (work / JOURNAL).write_text(json.dumps({"work": {}, "files": files}))
        with pytest.raises(CheckpointError, match=r"journal\.json"):
            save_directory(tmp_path / "out", tiny_arrays(), TINY)
    assert precious.read_text() == "thesis"
    (work / JOURNAL).write_text(DEEP)
    save_directory(tmp_path / "out", tiny_arrays(), TINY)
    assert not verify(tmp_path / "out").faults


def test_writing_goes_through_no_planted_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ("out" + UNFINISHED)).symlink_to("elsewhere")
    with pytest.raises(CheckpointError, match="a link to another place"):
        save_directory(tmp_path / "out", tiny_arrays(), TINY)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_link_to_a_checkpoint_is_written_where_it_points(ours, tmp_path):
    (tmp_path / "link").symlink_to(ours)
    save_directory(tmp_path / "link", tiny_arrays(), TINY, overwrite=True)
    assert (tmp_path / "link").is_symlink() and not verify(ours).faults


@pytest.mark.parametrize("told", ["../other", "/tmp", "1/../..", "9" * 5000, ""])
def test_the_tracker_of_megatron_stays_in_its_folder(tmp_path, told):
    write_megatron(tiny_arrays(), TINY, tmp_path / "m")
    (tmp_path / "m/latest_checkpointed_iteration.txt").write_text(told)
    with pytest.raises(CheckpointError, match="names no iteration|at most 100"):
        MegatronWeights(tmp_path / "m", TINY)


@pytest.mark.parametrize("content", [DEEP, "{", '{"a": ' * 100_000, "\xff", "null"])
def test_json_of_any_content_is_one_line(ours, tmp_path, content):
    shutil.copy(ours / "model.safetensors", tmp_path)
    names = ["config.json", "adapter_config.json", "model.safetensors.index.json", "s.json"]
    for name in names:
        (tmp_path / name).write_text(content, encoding="latin-1")
    index = tmp_path / names[2]
    calls = (
        (read_config, tmp_path / names[0]),
        (read_adapter_config, tmp_path),
        (read_weights, index),
        (read_strategy, tmp_path / names[3]),
    )
    for function, place in calls:
        with pytest.raises(UserError, match="^[^\n]*$") as caught:
            function(place)
        assert len(str(caught.value)) < 600
    (tmp_path / "rank_0").mkdir()
    (tmp_path / "rank_0/meta.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match="no checkpoint that all ranks have"):
        resume_file(tmp_path)


def test_a_damaged_manifest_is_no_manifest_of_nothing(ours):
    (ours / "manifest.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="nested too deep"):
        read_manifest(ours)


def test_a_pipe_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    os.mkfifo(tmp_path / "x.json")
    for function, name in ((read_weights, "x.safetensors"), (read_config, "x.json"), (read_strategy, "x.json")):
        with pytest.raises(CheckpointError, match="no regular file"):
            function(tmp_path / name)


def test_more_layers_than_anyone_has_are_counted_by_nobody(golden, tmp_path):
    folder = golden / "hf_glm2_tiny"
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_layers": 10**9}))
    for source in (folder, folder / "peft_lora"):
        with contextlib.suppress(UserError):
            plan_job(source, tmp_path / "x.ckpt", "mindformers", config=tmp_path / "config.json")
    with pytest.raises(UserError, match="num_layers"):
        plan_job(folder, tmp_path / "x.ckpt", "mindformers", config=tmp_path / "config.json")


def strategy_of(path, **changes):
    layout = {"dev_matrix": [2], "tensor_map": [0, -1], **changes}
    stage = layout.pop("current_stage", 0)
    path.write_text(json.dumps({"current_stage": stage, "parallel_layout_item": {"a": layout}}))
    return path


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"dev_matrix": [10**7]}, "dev_matrix"),
        ({"dev_matrix": ["a"]}, "dev_matrix"),
        ({"dev_matrix": [1 << 15, 1 << 15]}, "dev_matrix"),
        ({"dev_matrix": [0]}, "dev_matrix"),
        ({"dev_matrix": []}, "dev_matrix"),
        ({"dev_matrix": [True]}, "dev_matrix"),
        ({"dev_matrix": 2}, "not a strategy"),
        ({"tensor_map": [5]}, "tensor_map"),
        ({"tensor_map": [-2]}, "tensor_map"),
        ({"tensor_map": [[0, "x"]]}, "tensor_map"),
        ({"tensor_map": [0] * 100}, "tensor_map"),
        ({"opt_weight_shard_size": 10**9, "opt_weight_shard_step": 1}, "opt_weight_shard_size"),
        ({"opt_weight_shard_size": 2, "opt_weight_shard_step": 0}, "opt_weight_shard_step"),
        ({"current_stage": 10**8}, "current_stage"),
        ({"current_stage": "0"}, "current_stage"),
    ],
)
def test_a_strategy_that_no_job_has_is_refused_at_once(tmp_path, changes, word):
    with pytest.raises(CheckpointError, match=word):
        read_strategy(strategy_of(tmp_path / "s.json", **changes))


def test_many_ranks_and_few_folders_are_counted_not_listed(tmp_path):
    (tmp_path / "rank_0").mkdir()
    with pytest.raises(CheckpointError, match="60,000 ranks in the strategy, 1 folders of ranks"):
        rank_files(tmp_path, 60_000)


@pytest.mark.parametrize("prefix", ["../../x", "a/b", "x" * 300, "/x"])
def test_a_prefix_stays_in_the_folder_of_its_rank(tmp_path, prefix):
    (tmp_path / "src").mkdir()
    save_ckpt(tmp_path / "src/a.ckpt", {"a": np.ones(2, np.float32)})
    source = RankFiles(tmp_path / "src", None)
    with pytest.raises(CheckpointError, match="--prefix"):
        transform(source, None, tmp_path / "out", prefix=prefix)
    assert not (tmp_path / "out").exists()


def test_what_the_system_refuses_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    save_ckpt(tmp_path / "src/a.ckpt", {"a": np.ones(4, np.float32)})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file"):
        transform(RankFiles(tmp_path / "src", None), None, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    strategy = read_strategy(strategy_of(tmp_path / "s.json", tensor_map=[0]))

    def full(path, *_):
        if "rank_1" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return save_ckpt(path, *_)

    monkeypatch.setattr(reshard, "save_ckpt", full)
    with pytest.raises(CheckpointError, match="No space left"):
        transform(RankFiles(tmp_path / "src", None), strategy, tmp_path / "new/out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change", [{"num_layers": 10**6}, {"hidden_size": 1 << 20, "kv_channels": 1 << 18}])
def test_no_network_of_a_lying_configuration_is_built(golden, change):
    source = read_weights(golden / "hf_glm2_tiny")
    config = read_config(golden / "hf_glm2_tiny/config.json")[0]
    check_weights_fit(source, config)
    with pytest.raises(CheckpointError, match="num_layers|hidden_size"):
        check_weights_fit(source, config.model_copy(update=change))
