"""IndexedDataLoader: what training gets of a corpus, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_glm.data import CausalLanguageModelDataset, IndexedDataLoader
from mindformers_glm.data.indexed.corpus import Cache
from mindformers_glm.data.indexed.pair import PairWriter
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.registry import DATA_LOADERS


def write(prefix, documents):
    writer = PairWriter(prefix, np.dtype("<i4"))
    for ids in documents:
        writer.add([ids])
    writer.finish()
    return str(prefix)


@pytest.fixture
def prefix(tmp_path):
    return write(tmp_path / "c", [list(range(3 + 7 * i, 10 + 7 * i)) for i in range(40)])


def dataset(prefix, **loader):
    spec = {"type": "IndexedDataLoader", "dataset_dir": prefix, "split": "8,1,1", "cache_dir": None, **loader}
    return CausalLanguageModelDataset(data_loader=spec, seq_length=8, batch_size=2)


def rows(made):
    return np.concatenate([np.concatenate([batch.input_ids, batch.labels], 1) for batch in made.batches(0)])


def test_rows_are_ids_and_the_ids_that_follow(prefix):
    made = rows(dataset(prefix))
    assert made.shape == (26, 16)
    assert (made[:, 1:8] == made[:, 8:15]).all()


def test_the_eval_phase_reads_the_valid_part(prefix):
    train, valid = rows(dataset(prefix)), rows(dataset(prefix, phase="eval"))
    assert len(valid) == 2 and not set(valid.ravel()) & set(train[:, 1:].ravel())


def test_num_samples_counts_over_epochs(prefix):
    assert len(rows(dataset(prefix, num_samples=40))) == 40
    assert len(rows(dataset(prefix, num_samples=4))) == 4


def test_batches_do_not_depend_on_the_number_of_ranks(prefix):
    loader = {"type": "IndexedDataLoader", "dataset_dir": prefix, "split": "8,1,1"}
    whole = CausalLanguageModelDataset(data_loader=loader, seq_length=8, batch_size=4)
    halves = [
        CausalLanguageModelDataset(data_loader=loader, seq_length=8, batch_size=2, rank=r, rank_size=2) for r in (0, 1)
    ]
    for number in range(len(whole)):
        together = np.concatenate([next(half.batches(0, number)).input_ids for half in halves])
        alone = next(whole.batches(0, number)).input_ids
        assert sorted(map(tuple, together)) == sorted(map(tuple, alone))


def test_the_words_of_mindformers_2(prefix):
    made = CausalLanguageModelDataset(
        data_loader={
            "type": "BlendedMegatronDatasetDataLoader",
            "datasets_type": "GPTDataset",
            "sizes": [12, 0, 0],
            "config": {"data_path": ["1", prefix], "split": "8,1,1", "random_seed": 5, "seq_length": 8},
        },
        seq_length=8,
        batch_size=2,
    )
    assert len(rows(made)) == 12


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_ends_of_documents_restart_positions_and_sight(tmp_path, positions, mask):
    """The arrays of Megatron's flags: rows for the network only where they change what it computes."""
    prefix = write(tmp_path / "c", [[*range(3, 8), 2]] * 12)
    flags = {"reset_position_ids": positions, "reset_attention_mask": mask, "split": "1,0,0"}
    batch = next(dataset(prefix, **flags).batches(0))
    starts = np.zeros_like(batch.input_ids)
    for row, ids in enumerate(batch.input_ids):
        for end in np.flatnonzero(ids == 2):
            starts[row, end + 1 :] = end + 1
    assert (starts > 0).any()
    assert (batch.first_visible is not None) is mask and (batch.position_ids is not None) is (positions and not mask)
    if mask:
        np.testing.assert_array_equal(batch.first_visible, starts)
    elif positions:
        np.testing.assert_array_equal(batch.position_ids, np.arange(8) - starts)
    planes = 2 if mask else 3 if positions else None
    assert batch.network_input().shape == ((2, 8) if planes is None else (2, planes, 8))


def test_instruction_rows(golden):
    prefix = str(golden / "megatron_data/modellink/alpaca")
    loader = {"type": "IndexedDataLoader", "dataset_dir": prefix, "split": "949,50,1", "seed": 1234}
    made = CausalLanguageModelDataset(data_loader=loader, seq_length=512, batch_size=1)
    batch = next(made.batches(0))
    learned = batch.labels[0] != -100
    assert learned.sum() == 11 and batch.input_ids[0, 0] == 64790
    assert (batch.labels[0, :-1][learned[:-1]] == batch.input_ids[0, 1:][learned[:-1]])[:-1].all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset_dir": None}, "--train_dataset_dir PREFIX"),
        ({"dataset_dir": "nowhere"}, "no such file"),
        ({"config": {"seq_len": 8}}, "data_loader.config.seq_len"),
        ({"config": {"seq_length": 9}}, "one number"),
        ({"sizes": [1, 2]}, "three numbers"),
        ({"phase": "predict"}, "train or eval"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(prefix, change, said):
    with pytest.raises((ConfigError, DataError), match=said):
        dataset(change.pop("dataset_dir", prefix), **change)


def test_nodes_without_a_common_disk_build_their_own_index(prefix, tmp_path, monkeypatch):
    """`shared_storage: False`, Megatron's --no-shared-storage: no rank waits for another."""
    whole = rows(dataset(prefix, cache_dir=str(tmp_path / "node_0")))
    monkeypatch.setattr("mindformers_glm.runtime.rank", lambda: 1)
    alone = rows(dataset(prefix, cache_dir=str(tmp_path / "node_1"), shared_storage=False))
    np.testing.assert_array_equal(whole, alone)
    names = [sorted(file.name for file in (tmp_path / f"node_{number}").iterdir()) for number in (0, 1)]
    assert names[0] == names[1] and len(names[0]) == 4
    monkeypatch.setattr(Cache.__new__, "__defaults__", (True, 0.0))
    with pytest.raises(DataError, match="--no-shared-storage"):
        dataset(prefix, cache_dir=str(tmp_path / "node_2"))


def test_a_corpus_shorter_than_a_row_is_named_or_repeated(tmp_path):
    short = write(tmp_path / "c", [[3, 4, 5]])
    with pytest.raises(DataError, match="fills no row of 8 tokens"):
        dataset(short, split="1,0,0")
    assert rows(dataset(short, split="1,0,0", num_samples=2))[:, :8].tolist() == [
        [3, 4, 5, 3, 4, 5, 3, 4],
        [5, 3, 4, 5, 3, 4, 5, 3],
    ]


def test_empty_documents_leave_no_trace_in_rows(tmp_path):
    made = rows(dataset(write(tmp_path / "c", [[], range(3, 8), [], range(8, 15), []]), split="1,0,0", num_samples=2))
    assert made.shape == (2, 16) and (made[:, 1:8] == made[:, 8:15]).all() and made.min() >= 3


def test_ids_beyond_the_tokenizer_are_named(tmp_path):
    class Small:
        vocab_size, eos_token_id = 50, 2

    loader = IndexedDataLoader(write(tmp_path / "c", [range(3, 70)]), split="1,0,0")
    with pytest.raises(DataError, match="beyond the tokenizer"):
        list(loader.rows_of(8, Small()))


def test_both_names_are_registered():
    assert DATA_LOADERS.get("IndexedDataLoader") is DATA_LOADERS.get("BlendedMegatronDatasetDataLoader")
