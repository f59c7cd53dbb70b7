"""Sampling against the formulas, written again the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.sampling import (
    choose,
    distribution,
    log_probabilities,
    log_softmax,
    penalise_repetition,
    process,
    repeated_ngram_ends,
)


def slow_distribution(logits, temperature, top_k, top_p):
    """Sorted, filtered and normalised step by step; a dense vector of probabilities."""
    scores = logits.astype(np.float64) / temperature
    if top_k:
        limit = np.sort(scores)[::-1][min(top_k, len(scores)) - 1]
        scores = np.where(scores >= limit, scores, -np.inf)
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = order[(before < top_p) | (np.arange(len(order)) == 0)]
        mask = np.zeros_like(probabilities)
        mask[kept] = 1
        probabilities = probabilities * mask / (probabilities * mask).sum()
    return probabilities


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 700),
    st.floats(0.1, 3),
    st.sampled_from([0, 1, 3, 50, 1000]),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    st.integers(0, 2**31),
)
def test_distribution_is_the_formula(size, temperature, top_k, top_p, seed):
    logits = (np.random.default_rng(seed).normal(size=size) * 3).astype(np.float32)
    ids, probabilities = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    dense = np.zeros(size)
    dense[ids] = probabilities
    np.testing.assert_allclose(dense, slow_distribution(logits, temperature, top_k, top_p), rtol=1e-5, atol=1e-9)


def test_ties_at_the_last_place_of_top_k_all_stay():
    ids, probabilities = distribution(np.float32([1, 3, 3, 3, 0]), temperature=1, top_k=2, top_p=1.0)
    assert sorted(ids) == [1, 2, 3]
    np.testing.assert_allclose(probabilities, 1 / 3)


def test_frequencies_follow_the_probabilities():
    logits = np.random.default_rng(0).normal(size=(1, 30)).astype(np.float32) * 2
    config = GenerationConfig(do_sample=True, temperature=0.8, top_k=10, top_p=0.9)
    draws = 20000
    numbers = np.random.default_rng(1).random(draws)
    rows = np.repeat(logits, draws, 0)
    chosen = [choice.token for choice in choose(rows, rows, [config] * draws, numbers)]
    expected = slow_distribution(logits[0], 0.8, 10, 0.9)
    counts = np.bincount(chosen, minlength=30)
    assert not counts[expected == 0].any()
    chi = ((counts - draws * expected)[expected > 0] ** 2 / (draws * expected)[expected > 0]).sum()
    assert chi < 30  # 9 degrees of freedom at most: p below 1e-3


@pytest.mark.parametrize("extra", [{"do_sample": False}, {"temperature": 0}, {"top_k": 1}, {"top_p": 0}])
def test_greedy_in_every_guise(extra):
    logits = np.float32([[0, 5, 1], [7, 5, 1]])
    config = GenerationConfig(**{"do_sample": True, "top_k": 50, **extra})
    assert [c.token for c in choose(logits, logits, [config] * 2, np.array([0.99, 0.99]))] == [1, 0]


def test_repetition_penalty_counts_an_id_once_and_spares_others():
    logits = np.float32([2, -2, 4, 1])
    np.testing.assert_allclose(penalise_repetition(logits, [1, 2, 2, 99], 2.0), [2, -4, 2, 1])
    np.testing.assert_allclose(logits, [2, -2, 4, 1])


def test_repeated_ngrams():
    assert repeated_ngram_ends([1, 2, 3, 1, 2], 3) == [3]
    assert repeated_ngram_ends([1, 2, 1, 3, 1], 2) == [2, 3]
    assert repeated_ngram_ends([4, 5], 1) == [4, 5]
    assert repeated_ngram_ends([4], 2) == []


def test_bans():
    config = GenerationConfig(bad_words_ids=[[3], [1, 2]], eos_token_id=0)
    logits = np.float32([9, 1, 8, 7, 0])
    banned = process(logits, [5, 1], config, num_new=1, min_new=2)
    assert np.isneginf(banned[[0, 2, 3]]).all() and banned.argmax() == 1
    free = process(logits, [1, 5], config, num_new=2, min_new=2)
    assert np.isfinite(free[[0, 2]]).all() and np.isneginf(free[3])
    with pytest.raises(GenerationError, match="forbid every token"):
        process(np.float32([1, 2]), [0], GenerationConfig(bad_words_ids=[[0], [1]]), num_new=0, min_new=0)


def test_own_processors_see_ids_and_scores():
    seen = []

    def favour_two(ids, scores):
        seen.append(ids.tolist())
        scores[:, 2] += 100
        return scores

    config = GenerationConfig(logits_processor=favour_two)
    assert process(np.float32([5, 1, 0]), [4, 1], config, num_new=0, min_new=0).argmax() == 2
    assert seen == [[[4, 1]]]


def test_log_probabilities_are_those_of_the_raw_logits():
    logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    expected = log_softmax(logits)
    np.testing.assert_allclose(
        log_probabilities(logits, np.array([4, 7, 9])), expected[[0, 1, 2], [4, 7, 9]], rtol=1e-6
    )
    config = GenerationConfig(output_logprobs=True, top_logprobs=3, do_sample=True, temperature=0.3)
    (choice,) = choose(logits[:1], logits[:1] * 2, [config], np.array([0.5]))
    assert choice.logprob == pytest.approx(expected[0, choice.token])
    best = np.argsort(-expected[0])[:3]
    assert [index for index, _ in choice.best] == best.tolist()
