"""Order of samples and blending: equal to Megatron-core's, for every golden case."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm.data.indexed import blend
from mindformers_glm.data.indexed.pair import IndexedPair
from mindformers_glm.data.indexed.samples import PARTS, build_index, split_ranges
from mindformers_glm.errors import ConfigError


@pytest.fixture(scope="module")
def gpt(golden):
    folder = golden / "megatron_data/gpt"
    pairs = {name: IndexedPair(folder / name) for name in ("adgen", "alpaca", "lines")}
    return json.loads((folder / "cases.json").read_text()), np.load(folder / "arrays.npz"), pairs


def test_splits_are_rounded_as_megatron_rounds(gpt):
    for row in gpt[0]["split_ranges"]:
        expected = [tuple(part) if part else None for part in row["ranges"]]
        assert split_ranges(row["split"], row["n"]) == expected, row


def test_indices_of_every_case_are_megatrons(gpt):
    cases, arrays, pairs = gpt
    compared = 0
    for case in [*cases["cases"], *(row for row in cases["extra"] if row["key"] == "none")]:
        lengths = pairs[case["corpus"]].lengths
        runs = split_ranges(case["split"], len(lengths))
        for part, run, count in zip(PARTS, runs, case["num_samples"], strict=True):
            key = f"{case['key']}/{part}"
            if run is None:
                assert f"{key}/sample_index" not in arrays
                continue
            settings = {"seq_length": case["sequence_length"], "seed": case["random_seed"], "num_samples": count}
            found = build_index(lengths, *run, **settings)
            for name, array in zip(("document", "sample", "shuffle"), found[:3], strict=True):
                np.testing.assert_array_equal(array, arrays[f"{key}/{name}_index"])
            compared += 1
            if "parts" in case:
                assert found.epochs == case["parts"][part]["epochs"]
                assert str(found.shuffle.dtype) == case["parts"][part]["dtypes"]["shuffle_index"]
    assert compared == 79


def test_a_last_sample_is_kept_and_samples_need_not_overlap(gpt):
    cases, arrays, pairs = gpt
    for case in cases["extra"][1:]:
        keep = case["key"] == "keep_last_valid"
        lengths = pairs[case["corpus"]].lengths
        run = split_ranges(case["split"], len(lengths))[1 if keep else 0]
        found = build_index(
            lengths,
            *run,
            seq_length=case["sequence_length"],
            seed=case["random_seed"],
            num_samples=None if keep else case["num_samples"][0],
            keep_last=keep,
            extra_token=keep,
        )
        np.testing.assert_array_equal(found.samples, arrays[f"{case['key']}/sample_index"])


def test_blends_are_megatrons(gpt):
    cases, arrays, _ = gpt
    alone = [case for case in cases["blends"] if "size" in case]
    assert len(alone) == 4
    for case in alone:
        found = blend.blend(case["weights"], case["size"])
        np.testing.assert_array_equal(found.corpus, arrays[f"{case['key']}/dataset_index"])
        np.testing.assert_array_equal(found.sample, arrays[f"{case['key']}/dataset_sample_index"])


def test_an_exhausted_blend_takes_every_sample_once():
    found = blend.exhausted([5, 0, 3])
    assert sorted(zip(found.corpus.tolist(), found.sample.tolist(), strict=True)) == [
        *((0, i) for i in range(5)),
        *((2, i) for i in range(3)),
    ]


@pytest.mark.parametrize("split", ["", "a,b", "0,0,0", "1,2,3,4"])
def test_a_split_that_says_nothing_is_refused(split):
    with pytest.raises(ConfigError, match="split"):
        split_ranges(split, 10)


def test_an_empty_part_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        build_index(np.zeros(3, np.int32), 0, 3, seq_length=8, seed=1)


def step_by_step(sizes, begin, end, *, seq_length, seed, num_samples, keep_last, extra):
    """Megatron's loops, token run by token run, as a second way to the same indices."""
    own, epochs = sizes[begin:end], 1
    while num_samples is not None and epochs * own.sum() < num_samples * seq_length + extra:
        epochs += 1
    before_last = int((epochs - 1) * own.sum() - extra) // seq_length
    per_epoch = int(own.sum() - extra) // seq_length
    apart = epochs > 1 and num_samples - before_last < int(0.8 * per_epoch)
    random = np.random.RandomState(seed)

    def order(count):
        documents = np.concatenate([np.arange(begin, end, dtype=np.int32)] * count)
        random.shuffle(documents)
        return documents

    documents = np.concatenate((order(epochs - 1), order(1))) if apart else order(epochs)
    tokens = int(epochs * own.sum()) - extra
    count = -(-tokens // seq_length) if keep_last else tokens // seq_length
    at, offset, starts = 0, 0, [(0, 0)]
    for _ in range(count):
        left = seq_length + extra
        while left:
            here = int(sizes[documents[at]]) - offset
            left -= here
            if left <= 0:
                offset, left = offset + left + here - extra, 0
            elif at == len(documents) - 1:
                offset, left = int(sizes[documents[at]]) - extra, 0
            else:
                at, offset = at + 1, 0
        starts.append((at, offset))
    first = before_last if apart else count
    one, two = np.arange(first), np.arange(first, count)
    random.shuffle(one)
    if first < count:
        random.shuffle(two)
    return documents, np.array(starts), np.concatenate((one, two))


def test_any_corpus_gives_the_indices_of_megatrons_loops():
    """Empty and single documents, rows longer than the corpus, many epochs, samples that are not full."""
    rng = np.random.default_rng(0)
    for trial in range(120):
        sizes = rng.integers(trial % 2, 20, int(rng.integers(1, 12))).astype(np.int32)
        begin = int(rng.integers(0, len(sizes)))
        end = int(rng.integers(begin + 1, len(sizes) + 1))
        if not sizes[begin:end].sum():
            continue
        wanted = None if rng.random() < 0.3 else int(rng.integers(1, 60))
        keep_last = wanted is None and rng.random() < 0.5
        settings = {
            "seq_length": int(rng.integers(1, 30)),
            "seed": trial,
            "num_samples": wanted,
            "keep_last": keep_last,
        }
        extra = int(rng.random() < 0.7)
        made = build_index(sizes, begin, end, **settings, extra_token=bool(extra))
        for one, other in zip(made, step_by_step(sizes, begin, end, **settings, extra=extra), strict=False):
            np.testing.assert_array_equal(one, other, err_msg=str((sizes, begin, end, settings, extra)))
