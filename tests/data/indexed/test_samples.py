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
