"""The compiled choice of tokens against the NumPy formulas of generation/sampling.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation import GenerationConfig, sampling
from mindformers_glm.generation.sampling import Row, distribution, next_tokens
from mindformers_glm.ops.kernels.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not built")


def both(logits, rows, config):
    by_kernel = next_tokens(logits, rows, config)
    processed = [
        sampling.process(logits[i], row.ids, config, num_new=row.num_new, min_new=row.min_new, mask=row.mask)
        for i, row in enumerate(rows)
    ]
    uniforms = np.asarray([row.uniform for row in rows])
    return by_kernel, sampling.choose(logits, np.stack(processed), [config] * len(rows), uniforms)


def mask(random, size, share):
    """Bits of which some allow an id, at least one; sometimes fewer than there are ids."""
    if share is None:
        return None
    bits = random.random(size) < share
    bits[random.integers(0, max(size - 9, 1))] = True
    packed = np.packbits(bits, bitorder="little")
    return packed[: max(1, len(packed) - int(random.integers(0, 2)))]


def test_nothing_comes_that_a_mask_does_not_allow():
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 5001)).astype(np.float32) * 4
    for draw in range(200):
        allowed = mask(random, 5001, 0.002)
        config = GenerationConfig(do_sample=True, top_k=0, top_p=[1.0, 0.9][draw % 2], temperature=3)
        token = next_tokens(logits, [Row((), 0, 0, 1 - 1e-16, allowed)], config)[0].token
        assert allowed[token // 8] >> token % 8 & 1
    nothing = Row((), 0, 0, 0.5, np.zeros(626, np.uint8))
    with pytest.raises(GenerationError, match="forbid every token"):
        next_tokens(logits, [nothing], config)


@settings(max_examples=100, deadline=None)
@given(
    size=st.sampled_from([1, 2, 15, 16, 17, 250, 257, 1000, 5001]),
    rows=st.integers(1, 4),
    top_k=st.sampled_from([0, 1, 3, 50, 400]),
    top_p=st.sampled_from([1.0, 0.99, 0.7, 0.1]),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
    ties=st.booleans(),
    masked=st.sampled_from([None, 0.5, 0.01, 1.0]),
    best=st.sampled_from([0, 1, 5]),
    said=st.sampled_from([(0, 0), (0.7, 0), (0, 0.4), (-0.3, 1.1)]),
    biased=st.booleans(),
    ngram=st.sampled_from([0, 0, 1, 2, 3]),
    seed=st.integers(0, 999),
)
def test_the_token_of_the_formula(
    size, rows, top_k, top_p, temperature, penalty, ties, masked, best, said, biased, ngram, seed
):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, size)).astype(np.float32) * 4
    if ties:
        logits = np.round(logits)
    config = GenerationConfig(
        do_sample=True,
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        repetition_penalty=penalty,
        top_logprobs=min(best, size),
        output_logprobs=best > 0,
        presence_penalty=said[0],
        frequency_penalty=said[1],
        logit_bias={int(token): 3.5 for token in random.integers(0, size + 3, 5)} if biased else {},
        no_repeat_ngram_size=ngram if masked is None and size > 200 else 0,  # or all may be forbidden
    )
    masks = [mask(random, size, masked) for _ in range(rows)]
    few = max(size // 9, 1)  # ids that come again
    given_rows = [Row(random.integers(0, few, 20).tolist(), 7, 0, float(random.random()), one) for one in masks]
    for one, other in zip(*both(logits, given_rows, config), strict=True):
        assert one.token == other.token
        if best:
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
            assert [token for token, _ in one.best] == [token for token, _ in other.best]
            assert [value for _, value in one.best] == pytest.approx([value for _, value in other.best], abs=1e-5)


def test_greedy_takes_the_first_of_the_best_that_are_allowed():
    logits = np.zeros((2, 40), np.float32)
    logits[0, [7, 21]] = 5
    logits[1, 39] = 5
    config = GenerationConfig(do_sample=False)
    assert [choice.token for choice in next_tokens(logits, [Row((), 0, 0)] * 2, config)] == [7, 39]
    config = GenerationConfig(do_sample=False, bad_words_ids=[[7], [39]])
    assert [choice.token for choice in next_tokens(logits, [Row([1], 0, 0)] * 2, config)] == [21, 0]
    config = GenerationConfig(do_sample=False, bad_words_ids=[[token] for token in range(40)])
    with pytest.raises(GenerationError, match="forbid every token"):
        next_tokens(logits, [Row([1], 0, 0)] * 2, config)


def test_rows_of_several_requests_are_chosen_together():
    """Each by its own settings, from its own row of logits; what a row cannot have is told in its place."""
    random = np.random.default_rng(5)
    logits = random.normal(size=(4, 300)).astype(np.float32)
    logits[2, 7] = np.nan
    wishes = [
        (3, Row((), 0, 0), GenerationConfig()),
        (0, Row([5, 6, 5], 1, 0, 0.3), GenerationConfig(do_sample=True, top_k=9, repetition_penalty=1.3)),
        (2, Row((), 0, 0), GenerationConfig()),
        (1, Row((), 0, 0, 0.5, np.zeros(38, np.uint8)), GenerationConfig(do_sample=True)),
        (3, Row((), 0, 0), GenerationConfig(top_logprobs=2)),
        (1, Row((), 0, 0), GenerationConfig(logits_processor=[lambda ids, logits: -logits])),
        (1, Row((), 0, 0), GenerationConfig(logits_processor=[lambda ids, logits: 1 / 0])),
    ]
    found = sampling.choices(logits, [sampling.Asked(*wish) for wish in wishes])
    for place, choice in zip((0, 1, 4, 5), (found[0], found[1], found[4], found[5]), strict=True):
        row, wish, config = wishes[place]
        assert choice == next_tokens(logits[row : row + 1], [wish], config)[0]
    assert found[5].token == logits[1].argmin() and len(found[4].best) == 2
    assert "not a number" in str(found[2]) and "forbid every token" in str(found[3])
    assert isinstance(found[6], ZeroDivisionError)
    with pytest.raises(GenerationError, match="not a number"):
        next_tokens(logits[2:3], [Row((), 0, 0)], GenerationConfig())


def test_draws_follow_the_distribution():
    """20,000 rows at once, chi-square over the ids that can be drawn."""
    random = np.random.default_rng(4)
    logits = random.normal(size=60).astype(np.float32) * 2
    config = GenerationConfig(do_sample=True, top_k=20, top_p=0.9, temperature=1.2)
    rows = [Row((), 0, 0, uniform) for uniform in random.random(20000)]
    tokens = [choice.token for choice in next_tokens(np.repeat(logits[None], len(rows), 0), rows, config)]
    ids, probabilities = distribution(logits, temperature=1.2, top_k=20, top_p=0.9)
    counts = np.bincount(tokens, minlength=60)
    assert counts.sum() == counts[ids].sum()
    expected = probabilities * len(rows)
    assert ((counts[ids] - expected) ** 2 / expected).sum() < len(ids) + 5 * np.sqrt(2 * len(ids))


def test_a_vocabulary_of_equal_logits_takes_no_longer_than_another():
    logits = np.zeros((1, 200_000), np.float32)
    config = GenerationConfig(do_sample=True, top_k=5)
    assert abs(next_tokens(logits, [Row((), 0, 0, 0.5)], config)[0].token - 100_000) < 2
