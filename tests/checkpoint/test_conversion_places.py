"""Where conversions write: places that are taken, interruptions, two writers, a full disk."""

import shutil
from types import SimpleNamespace

import pytest
from conversions import assert_same, job

from mindformers_glm.checkpoint.convert import run as convert
from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.convert.verify import verify
from mindformers_glm.checkpoint.formats import folder
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError


def test_places_that_are_taken(ours, tmp_path):
    with pytest.raises(CheckpointError, match="exists already"):
        job(ours, ours, "hf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="exists already|not a checkpoint of ours"):
            run_plan(plan_job(ours, tmp_path / "mine", "hf"), overwrite=overwrite)
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
    with pytest.raises(CheckpointError, match="End its name in .ckpt"):
        job(ours, tmp_path / "x", "mindformers")
    (tmp_path / "x.ckpt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        job(ours, tmp_path / "x.ckpt", "mindformers")
    assert (tmp_path / "x.ckpt").read_text() == "mine"


def test_overwriting_replaces_the_whole_folder(ours, tmp_path):
    out = job(ours, tmp_path / "x", "ours", shard_size=2000)
    run_plan(plan_job(ours, out, "hf"), overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "x"]


def test_an_interrupted_conversion_goes_on(ours, tmp_path, monkeypatch):
    written = []
    original = convert.write_safetensors

    def stop_at_third(plan, file, out, progress):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file.name)
        original(plan, file, out, progress)

    monkeypatch.setattr(convert, "write_safetensors", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        job(ours, tmp_path / "x", "hf", shard_size=2000)
    assert not (tmp_path / "x").exists()
    with pytest.raises(CheckpointError, match="not finished"):
        read_weights(tmp_path / "x.unfinished")
    first, before = list(written), (tmp_path / "x.unfinished" / written[0]).stat().st_mtime_ns
    written.clear()
    monkeypatch.setattr(convert, "write_safetensors", lambda *a: (written.append(a[1].name), original(*a)))
    done = []
    run_plan(plan := plan_job(ours, tmp_path / "x", "hf", shard_size=2000), progress=done.append)
    assert not set(first) & set(written)
    assert sum(done) == plan.size
    assert (tmp_path / "x" / first[0]).stat().st_mtime_ns == before
    assert verify(tmp_path / "x").faults == []
    assert_same(ours, tmp_path / "x")
    assert not (tmp_path / "x.unfinished").exists()


def test_an_interrupted_single_file_leaves_the_old_one(ours, tmp_path, monkeypatch):
    out = job(ours, tmp_path / "x.ckpt", "mindformers")
    before = out.read_bytes()
    original, written = convert.write_ckpt_tensor, []

    def stop_at_third(plan, tensor, file, progress):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(tensor.name)
        original(plan, tensor, file, progress)

    monkeypatch.setattr(convert, "write_ckpt_tensor", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan_job(ours, out, "mindformers", dtype="fp16"), overwrite=True)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "x.ckpt", "x.yaml"]
    monkeypatch.undo()
    run_plan(plan_job(ours, out, "mindformers", dtype="fp16"), overwrite=True)
    assert read_weights(out).dtype("transformer.output_layer.weight") == "float16"


def test_another_conversion_does_not_take_up_its_files(ours, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(convert, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        job(ours, tmp_path / "x", "hf", shard_size=2000)
    job(ours, tmp_path / "x", "hf", dtype="fp16", shard_size=2000)
    assert read_weights(tmp_path / "x").dtype("transformer.output_layer.weight") == "float16"
    assert verify(tmp_path / "x").notes == []


def test_two_writers_of_one_folder(ours, tmp_path):
    busy = pytest.raises(CheckpointError, match="another process is writing")
    with folder.FolderWriter(tmp_path / "x", work={"a": 1}), busy:
        job(ours, tmp_path / "x", "hf")


def test_a_full_disk(ours, tmp_path, monkeypatch):
    import errno

    def refuse(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder.HashingFile, "write", refuse)
        with pytest.raises(CheckpointError, match="No space left on device"):
            job(ours, tmp_path / "x", "hf")
    assert not (tmp_path / "x").exists()
    job(ours, tmp_path / "x", "hf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(CheckpointError, match="1 free"):
        job(ours, tmp_path / "y", "hf")
