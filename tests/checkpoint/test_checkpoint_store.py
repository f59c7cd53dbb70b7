"""The checkpoints of a run: names, meta.json, keeping, agreeing, background, full disks."""

import errno
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.checkpoint.store import CheckpointStore
from mindformers_glm.checkpoint.store import checkpoints as store_module
from mindformers_glm.checkpoint.store.reshard import rank_files
from mindformers_glm.checkpoint.store.resume import TrainState
from mindformers_glm.checkpoint.store.saved import Saved, agree, networks, resume_file
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import is_temporary

NAME = "transformer.output_layer.weight"


def state(step: int, per_epoch: int = 4) -> TrainState:
    epoch, inside = divmod(step, per_epoch)
    weights = {NAME: np.full((2, 3), step, np.float32)}
    return TrainState(
        epoch=epoch,
        step_in_epoch=inside,
        global_step=step,
        weights=weights,
        optimizer={f"adam_m.{NAME}": np.full((2, 3), -step, np.float32)},
        steps_per_epoch=per_epoch,
    )


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def steps(store) -> list[int]:
    return [one.global_step for one in store.saved()]


def test_names_and_meta_as_mindformers_wrote_them(tmp_path):
    store = CheckpointStore(tmp_path, "glm2", trainable=[NAME])
    path = store.save(state(3))
    store.save(state(4))
    assert path == tmp_path / "checkpoint/rank_0/glm2_rank_0-1_3.ckpt"
    assert names(path.parent) == ["glm2_rank_0-1_3.ckpt", "glm2_rank_0-1_4.ckpt", "meta.json"]
    meta = json.loads((path.parent / "meta.json").read_text())
    assert (meta["last_epoch"], meta["last_step"], meta["last_ckpt_file"]) == (1, 4, "glm2_rank_0-1_4.ckpt")
    assert [row["global_step"] for row in meta["checkpoints"]] == [3, 4]
    network = tmp_path / "checkpoint_network/rank_0/glm2_rank_0-network.ckpt"
    assert read_weights(network).read(NAME)[0, 0] == 4
    trainable = tmp_path / "checkpoint_trainable/rank_0/glm2_rank_0-trainable_params.ckpt"
    assert read_weights(trainable).names == [NAME]
    assert store.load().global_step == 4
    assert store.load("glm2-1_3").global_step == 3
    assert store.load("glm2_rank_5-1_3.ckpt").global_step == 3
    assert store.load(path).global_step == 3
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        store.load("glm2-7_7")


@pytest.mark.parametrize(("keep", "left"), [(2, [5, 6]), (1, [6]), (0, [1, 2, 3, 4, 5, 6]), (9, [1, 2, 3, 4, 5, 6])])
def test_keeping_the_newest(tmp_path, keep, left):
    store = CheckpointStore(tmp_path, keep=keep)
    for step in range(1, 7):
        store.save(state(step))
    assert steps(store) == left


def test_damaged_files_do_not_count_as_kept(tmp_path, caplog):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(state(step))
    for one in store.saved():
        one.path.write_bytes(one.path.read_bytes()[:-5])
    assert store.newest() is None
    with pytest.raises(CheckpointError, match="no checkpoint that all ranks have"):
        store.load()
    for step in (4, 5):
        store.save(state(step))
    assert steps(store) == [4, 5]
    assert len(list(store.folder.glob("*.ckpt"))) == 4  # the damaged ones are the user's to look at


def test_what_every_rank_has_is_kept_until_there_is_something_newer(tmp_path):
    fast, slow = (CheckpointStore(tmp_path, keep=2, rank=rank, rank_size=2) for rank in (0, 1))
    fast.save(state(1))
    slow.save(state(1))
    for step in (2, 3, 4, 5):
        fast.save(state(step))
    assert steps(fast) == [1, 4, 5]
    assert fast.newest().global_step == slow.newest().global_step == 1
    slow.save(state(4))
    assert fast.newest().global_step == slow.newest().global_step == 4
    fast.save(state(6))
    assert steps(fast) == [4, 5, 6]
    assert resume_file(tmp_path, rank=1, rank_size=2).name == "CKP_rank_1-1_4.ckpt"


def test_ranks_that_see_only_their_own_folder_agree_by_numbers():
    def run(all_steps: list[list[int]]) -> list[int | None]:
        barrier, offers = threading.Barrier(len(all_steps)), [0] * len(all_steps)
        results = [0] * len(all_steps)

        def rank(index: int) -> None:
            def exchange(value: int) -> list[int]:
                offers[index] = value
                barrier.wait()
                seen = list(offers)
                barrier.wait()
                return seen

            there = [Saved(Path("x"), 1, step, step) for step in all_steps[index]]
            found = agree(there, exchange)
            results[index] = found and found.step

        threads = [threading.Thread(target=rank, args=(i,)) for i in range(len(all_steps))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results

    assert run([[1, 2, 3], [1, 2], [1, 2, 4]]) == [2, 2, 2]
    assert run([[1, 3], [2, 4]]) == [None, None]
    assert run([[], [5]]) == [None, None]
    assert run([[7], [7]]) == [7, 7]


def test_skipped_steps_do_not_mix_files_of_different_steps(tmp_path):
    """An overflow leaves global_step as it was: the step in the name still tells the moments apart."""
    left, right = (CheckpointStore(tmp_path, rank=rank, rank_size=2) for rank in (0, 1))
    for store, last in ((left, 7), (right, 6)):
        for step in (6, 7):
            if step <= last:
                moment = state(step, per_epoch=100)
                moment.global_step = 5
                store.save(moment)
    assert left.newest().path.name == "CKP_rank_0-1_6.ckpt"
    assert right.newest().path.name == "CKP_rank_1-1_6.ckpt"


def test_a_new_run_in_an_old_folder_takes_another_name(tmp_path):
    first = CheckpointStore(tmp_path, "glm2")
    first.save(state(4))
    first.close()
    second = CheckpointStore(tmp_path, "glm2")
    assert second.prefix == "glm2_1"
    assert second.newest() is None
    second.save(state(1))
    assert first.newest().global_step == 4


def test_two_runs_at_once_take_different_names(tmp_path):
    left, right = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
    assert (left.prefix, right.prefix) == ("CKP", "CKP_1")
    left.save(state(1))
    right.save(state(2))
    assert (steps(left), steps(right)) == ([1], [2])
    left.close()
    right.close()
    assert all(not path.name.endswith(".lock") for path in left.folder.iterdir())


def test_resuming_goes_on_under_the_name_of_the_last_run(tmp_path):
    for step in (5, 3):  # the second run is shorter, and the last
        store = CheckpointStore(tmp_path)
        store.save(state(step))
        store.close()
    again = CheckpointStore(tmp_path, resume=True)
    assert again.prefix == "CKP_1"
    assert again.load().global_step == 3
    again.close()
    (store.folder / "meta.json").unlink()
    assert CheckpointStore(tmp_path, resume=True).prefix == "CKP_1"
    assert CheckpointStore(tmp_path, resume=True).prefix == "CKP_2"  # a living run holds CKP_1
    assert CheckpointStore(tmp_path / "new", resume=True).prefix == "CKP"


def test_resuming_from_an_older_file_keeps_the_newer_ones_apart(tmp_path):
    store = CheckpointStore(tmp_path)
    paths = [store.save(state(step)) for step in (1, 2, 3)]
    store.close()
    assert CheckpointStore(tmp_path, resume=paths[1]).prefix == "CKP_1"
    assert CheckpointStore(tmp_path, resume=str(paths[2])).prefix == "CKP"
    assert CheckpointStore(tmp_path, resume=tmp_path / "elsewhere" / paths[2].name).prefix == "CKP_2"


def test_places_that_users_name_for_resuming(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(state(2))
    path = store.save(state(3))
    for place in (tmp_path, tmp_path / "checkpoint", tmp_path / "checkpoint/rank_0", path):
        assert resume_file(place) == path
    older = tmp_path / "checkpoint/rank_0/CKP_rank_0-1_2.ckpt"
    assert resume_file(tmp_path, which="CKP_rank_0-1_2.ckpt") == older
    assert resume_file(tmp_path, which=str(older)) == older
    with pytest.raises(CheckpointError, match="no checkpoint that all ranks"):
        resume_file(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        resume_file(tmp_path, which="CKP-9_9.ckpt")


def test_mindformers_folders_can_be_resumed_from(golden):
    folder = golden / "mindformers_r08/training/full/output"
    assert resume_file(folder).name == "glm2-6b_rank_0-1_8.ckpt"


def test_saving_in_the_background_copies_first(tmp_path, monkeypatch):
    gate, started = threading.Event(), threading.Event()
    original = store_module.save_ckpt

    def slow(*arguments):
        started.set()
        gate.wait(20)
        original(*arguments)

    monkeypatch.setattr(store_module, "save_ckpt", slow)
    store = CheckpointStore(tmp_path)
    live = state(1)
    store.save(live, background=True)
    assert started.wait(20)
    live.weights[NAME][:] = 99  # training goes on
    assert store.saved() == []
    gate.set()
    store.wait()
    assert store.load().weights[NAME][0, 0] == 1


def test_an_error_in_the_background_is_raised_at_the_next_call(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(state(1))

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save_ckpt", refuse)
        store.save(state(2), background=True)
        with pytest.raises(CheckpointError, match="No space left on device"):
            store.save(state(3))
    store.wait()
    assert steps(store) == [1]
    store.save(state(4), background=True)
    store.close()
    assert steps(store) == [1, 4]


@pytest.mark.parametrize("allowed", range(0, 2600, 200))
def test_a_disk_that_fills_up_at_any_byte(tmp_path, monkeypatch, allowed):
    """Every write goes through a file that refuses after `allowed` bytes."""
    store = CheckpointStore(tmp_path, keep=1, trainable=[NAME])
    store.save(state(1))
    left = [allowed]
    original = store_module.save_ckpt.__globals__["write_ckpt"]

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if left[0] < len(data):
                self.file.write(bytes(data)[: left[0]])
                left[0] = 0
                raise OSError(errno.ENOSPC, "No space left on device")
            left[0] -= len(data)
            return self.file.write(data)

    from mindformers_glm.checkpoint.formats import mindspore_ckpt

    with monkeypatch.context() as patch:
        patch.setattr(mindspore_ckpt, "write_ckpt", lambda file, *rest: original(Full(file), *rest))
        try:
            store.save(state(2))
        except CheckpointError as error:
            assert "No space left on device" in str(error)
            assert "\n" not in str(error)
    newest = store.newest()
    assert newest.global_step in (1, 2)
    assert store.load().weights[NAME][0, 0] == newest.global_step
    assert not [path for path in tmp_path.rglob("*") if is_temporary(path)]
    store.save(state(3))
    assert store.load().global_step == 3
    assert read_weights(tmp_path / "checkpoint_network/rank_0/CKP_rank_0-network.ckpt").read(NAME)[0, 0] == 3


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoint").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="could not be written"):
        CheckpointStore(tmp_path)


def network_of(folder, rank=0, prefix="CKP"):
    return read_weights(folder / f"checkpoint_network/rank_{rank}/{prefix}_rank_{rank}-network.ckpt").read(NAME)[0, 0]


def dies_before_the_network(store, moment, monkeypatch):
    """A save that is cut off between its two files."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_beside", lambda *_: None)
        store.save(moment)


def test_a_resumed_run_renews_what_it_finds_of_another_step(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, trainable=[NAME])
    store.save(state(1))
    dies_before_the_network(store, state(2), monkeypatch)
    store.close()
    assert network_of(tmp_path) == 1
    again = CheckpointStore(tmp_path, resume=True, trainable=[NAME])
    assert again.renew_network(again.load())
    assert network_of(tmp_path) == 2
    trainable = tmp_path / "checkpoint_trainable/rank_0/CKP_rank_0-trainable_params.ckpt"
    assert read_weights(trainable).read(NAME)[0, 0] == 2
    assert not again.renew_network(again.load())
    again.close()
    other = CheckpointStore(tmp_path)  # a new run leaves the files of others alone
    assert not other.renew_network(state(9))
    other.save(state(7))
    assert (network_of(tmp_path), network_of(tmp_path, prefix="CKP_1")) == (2, 7)
    other.close()
    meta = json.loads((again.folder / "meta.json").read_text())
    assert {name: one["file"] for name, one in meta["networks"].items()} == {
        "CKP": "CKP_rank_0-1_2.ckpt",
        "CKP_1": "CKP_1_rank_0-2_3.ckpt",
    }


def test_another_division_of_the_same_step_renews_the_network(tmp_path):
    store = CheckpointStore(tmp_path)
    moment = state(2)
    moment.data["division"] = {"dp": 1, "tp": 2, "divided": False}
    store.save(moment)
    store.close()
    again = CheckpointStore(tmp_path, resume=True)
    assert not again.renew_network(moment)
    assert again.renew_network(state(2))
    again.close()


def test_ranks_of_different_steps_are_refused_until_the_job_is_resumed(tmp_path, monkeypatch):
    ranks = [CheckpointStore(tmp_path, rank=rank, rank_size=2) for rank in (0, 1)]
    for store in ranks:
        store.save(state(1))
    folder = tmp_path / "checkpoint_network"
    assert len(rank_files(folder, 2)) == 2
    ranks[0].save(state(2))  # and rank 1 dies
    with pytest.raises(CheckpointError, match=r"rank_1.*step 1 of epoch 1.*rank_0.*step 2.*Resume the job"):
        rank_files(folder, 2)
    for store in ranks:
        store.close()
    again = [CheckpointStore(tmp_path, rank=rank, rank_size=2, resume=True) for rank in (0, 1)]
    assert [store.renew_network(store.load()) for store in again] == [True, False]
    assert [network_of(tmp_path, rank) for rank in (0, 1)] == [1, 1]
    assert len(rank_files(folder, 2)) == 2


@pytest.mark.parametrize("text", ["[]", '{"networks": [1]}', '{"networks": {"CKP": 3}}', "no json"])
def test_a_damaged_note_counts_as_none(tmp_path, text):
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    store.close()
    (store.folder / "meta.json").write_text(text)
    assert networks(store.folder) == {}
    again = CheckpointStore(tmp_path, resume=True)
    assert again.renew_network(again.load())
    assert not again.renew_network(again.load())
