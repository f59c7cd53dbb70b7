"""Beam search against exhaustive search, and against transformers where it is installed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy_network import NumpyNetwork

from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate

EOS = 3


def best_by_trying_all(network, prompt, *, length, penalty):
    """Every sequence up to `length` tokens that ends with eos or is full, and the best normalised sum."""
    found = []
    for tokens in itertools.product(range(network.vocab_size), repeat=length):
        if EOS in tokens:
            tokens = tokens[: tokens.index(EOS) + 1]
        found.append(tokens)
    logprobs = {}

    def total(tokens):
        if not tokens:
            return 0.0
        if tokens[:-1] not in logprobs:
            logits = network.logits([*prompt, *tokens[:-1]]).astype(np.float64)
            logprobs[tokens[:-1]] = logits - np.log(np.exp(logits).sum())
        return total(tokens[:-1]) + logprobs[tokens[:-1]][tokens[-1]]

    return max(set(found), key=lambda tokens: total(tokens) / len(tokens) ** penalty)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("use_past", [True, False])
def test_wide_beams_find_the_best_sequence(penalty, use_past):
    network = NumpyNetwork(vocab_size=5)
    engine = Engine(network, max_num_seqs=130)
    config = GenerationConfig(
        max_new_tokens=3,
        num_beams=125,
        length_penalty=penalty,
        eos_token_id=EOS,
        early_stopping="never",
        use_past=use_past,
    )
    (result,) = generate(engine, [[1, 2]], config)
    engine.close()
    assert tuple(result.ids) == best_by_trying_all(network, [1, 2], length=3, penalty=penalty)


def test_beams_and_samples_share_batches(network, engine):
    beams = GenerationConfig(max_new_tokens=12, num_beams=3, eos_token_id=EOS, num_return_sequences=2)
    greedy = GenerationConfig(max_new_tokens=20)
    apart = [generate(engine, [[1, 2, 3]], beams), generate(engine, [[4]], greedy), generate(engine, [[6, 7]], beams)]
    together = [engine.submit(ids, config) for ids, config in (([1, 2, 3], beams), ([4], greedy), ([6, 7], beams))]
    assert [[r.ids for r in ticket.results()] for ticket in together] == [[r.ids for r in rows] for rows in apart]
    first, second = apart[0]
    assert first.score >= second.score


def test_one_beam_is_greedy_search(engine):
    from mindformers_glm.generation.beam import BeamSearch

    config = GenerationConfig(max_new_tokens=9, eos_token_id=EOS, early_stopping=True)
    (greedy,) = generate(engine, [[5, 6]], config)
    search = BeamSearch([5, 6], config, config.limits([5, 6], seq_length=100))
    ids = [5, 6]
    while ids[-1] != EOS and len(ids) < 2 + 9:
        search.advance(engine.network.logits(ids)[None])
        ids = [5, 6, *(search.results()[0].ids)]
    assert search.results()[0].ids == greedy.ids
