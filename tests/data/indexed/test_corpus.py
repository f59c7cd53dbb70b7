"""Samples as Megatron-core trains them, from one corpus and from several; the cache of indices; ModelLink's rows."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from mindformers_glm.data.indexed.corpus import Cache, CorpusPart, Marks, as_sample, corpus, weighted
from mindformers_glm.data.indexed.instructions import Instructions, left_padded
from mindformers_glm.data.indexed.pair import PairWriter
from mindformers_glm.data.indexed.samples import PARTS
from mindformers_glm.errors import ConfigError, DataError

FIELDS = ("tokens", "labels", "loss_mask", "position_ids", "first_visible")


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "megatron_data/gpt"


@pytest.fixture(scope="module")
def cases(folder):
    return json.loads((folder / "cases.json").read_text())


@pytest.fixture(scope="module")
def arrays(folder):
    return dict(np.load(folder / "arrays.npz"))


def equal_samples(arrays, key, source, marks):
    for field in FIELDS:
        if f"{key}/{field}" in arrays:
            expected = arrays[f"{key}/{field}"]
            found = np.stack([getattr(source.sample(i, marks), field) for i in range(len(expected))])
            np.testing.assert_array_equal(found, expected, err_msg=f"{key} {field}")


def test_samples_of_every_case_and_flag(folder, cases, arrays):
    compared = 0
    for case in [*cases["cases"], *cases["flags"]]:
        key = next((key for key in (case["key"], f"{case['key']}/train") if f"{key}/tokens" in arrays), None)
        if key is None:
            continue
        marks = Marks(2, *(case.get(name, False) for name in Marks._fields[1:]))
        part = CorpusPart(
            folder / case["corpus"],
            split=case["split"],
            part="train",
            seq_length=case["sequence_length"],
            seed=case["random_seed"],
            num_samples=case["num_samples"][0],
        )
        equal_samples(arrays, key, part, marks)
        compared += 1
    assert compared == 20


def test_samples_that_do_not_overlap_and_a_last_one_that_is_not_full(folder, cases, arrays):
    settings = {"split": "90,5,5", "seq_length": 64, "seed": 1234}
    part = CorpusPart(folder / "alpaca", part="train", num_samples=40, extra_token=False, **settings)
    equal_samples(arrays, "no_extra/train", part, Marks(2))
    last = CorpusPart(folder / "alpaca", part="valid", keep_last=True, **settings)
    case = next(case for case in cases["extra"] if case["key"] == "keep_last_valid")
    sample = last.sample(case["position_of_the_partial_sample"], Marks(2))
    for field in FIELDS[:4]:
        np.testing.assert_array_equal(getattr(sample, field), arrays[f"keep_last_valid/last/{field}"])


def test_blended_corpora(folder, cases, arrays):
    for case in (case for case in cases["blends"] if "corpora" in case):
        prefixes = [str(folder / name) for name in case["corpora"]]
        weights = case["weights"]
        paths = prefixes if weights is None else [w for pair in zip(weights, prefixes, strict=True) for w in pair]
        for part, count in zip(PARTS, case["num_samples"], strict=True):
            settings = {"split": case["split"], "seq_length": case["sequence_length"], "seed": case["random_seed"]}
            found = corpus(paths, part=part, num_samples=count, **settings)
            key, expected = f"{case['key']}/{part}", case["parts"][part]
            assert (len(found), [len(one) for one in found.parts]) == (expected["len"], expected["built_of_each"])
            np.testing.assert_array_equal(found.order.corpus, arrays[f"{key}/dataset_index"])
            np.testing.assert_array_equal(found.order.sample, arrays[f"{key}/dataset_sample_index"])
            equal_samples(arrays, key, found, Marks(2))


def test_instruction_rows_are_read_as_modellink_reads_them(golden):
    prefix = golden / "megatron_data/modellink/alpaca"
    for case in json.loads((golden / "megatron_data/modellink/reading.json").read_text()):
        settings = {"split": case["split"], "seed": case["seed"], "seq_length": case["seq_length"]}
        for part, count in zip(PARTS, case["num_samples"], strict=True):
            expected = case["parts"][part]
            if not expected or not expected["shuffle_index"]:
                continue
            found = Instructions(prefix, part=part, num_samples=count, **settings)
            assert found.order.tolist() == expected["shuffle_index"]
            for number, item in enumerate(expected["first_items"] or []):
                row = found.row(number)
                assert (row.input_ids.tolist(), row.labels.tolist()) == (item["input_ids"], item["labels"])
            if part == "train":
                batch = left_padded([found.row(number) for number in range(4)], case["seq_length"])
                for name, array in batch.items():
                    assert array.tolist() == case["batch_of_first_4_left_padded"][name]


def write(prefix, documents):
    writer = PairWriter(prefix, np.dtype("<i4"))
    for ids in documents:
        writer.add([ids])
    writer.finish()
    return prefix


SETTINGS = {"split": "1,0,0", "part": "train", "seq_length": 4, "seed": 7}


def test_every_token_stands_in_the_samples_of_an_epoch(tmp_path):
    write(tmp_path / "c", [range(10, 20), [], range(30, 33), range(40, 47)])
    part = CorpusPart(tmp_path / "c", **SETTINGS)
    rows = np.stack([part.text(i) for i in np.argsort(part.index.shuffle)])
    assert (rows[1:, 0] == rows[:-1, -1]).all()  # samples overlap by one token
    stream = np.concatenate([part.pair[int(i)] for i in part.index.documents])
    assert np.concatenate([rows[0, :1], rows[:, 1:].ravel()]).tolist() == stream[: len(part) * 4 + 1].tolist()


def test_the_cache_gives_the_same_index_and_is_built_once(tmp_path, caplog):
    write(tmp_path / "c", [range(50), range(50, 90)])
    cache = Cache(tmp_path / "cache")
    plain = CorpusPart(tmp_path / "c", **SETTINGS)
    for _ in range(2):
        cached = CorpusPart(tmp_path / "c", cache=cache, **SETTINGS)
        for one, other in zip(plain.index[:3], cached.index[:3], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(list(cache.folder.glob("*.json"))) == 1
    other = CorpusPart(tmp_path / "c", cache=cache, **{**SETTINGS, "seed": 8})
    assert len(list(cache.folder.glob("*.json"))) == 2 and len(other) == len(plain)


def test_other_ranks_wait_for_rank_0(tmp_path):
    write(tmp_path / "c", [range(50)])
    with pytest.raises(DataError, match="--no-shared-storage"):
        CorpusPart(tmp_path / "c", cache=Cache(tmp_path / "cache", builds=False, patience_seconds=0.0), **SETTINGS)
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(
            CorpusPart(tmp_path / "c", cache=Cache(tmp_path / "cache", builds=False, patience_seconds=60.0), **SETTINGS)
        )
    )
    waiting.start()
    built = CorpusPart(tmp_path / "c", cache=Cache(tmp_path / "cache"), **SETTINGS)
    waiting.join()
    np.testing.assert_array_equal(found[0].index.shuffle, built.index.shuffle)


def test_end_marks_reset_positions_and_sight():
    text = np.array([5, 2, 6, 7, 2, 8])
    sample = as_sample(text, Marks(2, True, True, True))
    assert sample.tokens.tolist() == [5, 2, 6, 7, 2] and sample.labels.tolist() == [2, 6, 7, 2, 8]
    assert sample.position_ids.tolist() == [0, 1, 0, 1, 2]
    assert sample.first_visible.tolist() == [0, 0, 2, 2, 2]
    assert sample.loss_mask.tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    "paths",
    [[], [0.3], [0.3, "a", "b"], ["a", 0.3, "b", 0.7], [-1, "a", 2, "b"], [0, "a", 1, "b"], ["nan", "a", 1, "b"]],
)
def test_weights_and_prefixes_alternate(paths):
    with pytest.raises(ConfigError, match="data_path"):
        weighted(paths)


def test_weights_need_a_number_of_samples(tmp_path):
    write(tmp_path / "a", [range(50)])
    with pytest.raises(ConfigError, match="num_samples"):
        corpus([0.5, str(tmp_path / "a"), 0.5, str(tmp_path / "a")], **SETTINGS)


def test_a_part_with_nothing_in_it_is_named(tmp_path):
    write(tmp_path / "a", [range(50)])
    with pytest.raises(ConfigError, match="valid none of 1 sequences"):
        corpus([str(tmp_path / "a")], **{**SETTINGS, "part": "valid"})
