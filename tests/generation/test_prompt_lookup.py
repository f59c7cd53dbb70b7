"""Prompt lookup: what is guessed, when it is left, and that tokens are those that come without it."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_engine import Watched, ids, random_weights
from numpy_network import NumpyNetwork

from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.generation.lookup import Lookup, StepCost
from mindformers_glm.generation.sampling import distribution
from mindformers_glm.ops.kernels import library

needs_kernels = pytest.mark.skipif(library.library() is None, reason="the kernels are not built")


def test_the_longest_equal_ending_tells_what_comes():
    seen = Lookup([1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 1, 2, 3], 10)
    assert seen.guesses(3) == [4, 5, 9]  # after 1 2 3, although 2 3 came later before 7
    assert seen.guesses(1) == [4] and seen.guesses(0) == []
    seen.add(7)
    assert seen.guesses(2) == [8, 1]
    seen.add(6)
    assert seen.guesses(9) == []
    assert Lookup([], 4).guesses(4) == Lookup([5], 4).guesses(4) == []
    assert Lookup([1, 2] * 8, 5).guesses(99) == [1, 2]


def test_a_row_whose_guesses_are_wrong_is_left_and_comes_back():
    seen, cost = Lookup([1, 2, 3] * 5, 4), StepCost()
    cost.observe(1, 1, 0.01)
    assert cost.counts(1, [(seen.rate, 4)], 99)[0] > 0
    for number in range(40):  # 1 2 is never followed by what followed before
        for token in (1, 2, 100 + number):
            seen.add(token)
    assert cost.counts(1, [(seen.rate, 4)], 99) == [0]
    for _ in range(20):
        for token in (1, 2, 3):
            seen.add(token)
    assert cost.counts(1, [(seen.rate, 4)], 99) == [4]


def test_guesses_cost_more_where_tokens_do():
    cheap, dear = StepCost(), StepCost()
    for cost, token in ((cheap, 0.0002), (dear, 0.009)):
        for _ in range(20):
            cost.observe(2, 2, 0.01 + token)
            cost.observe(2, 6, 0.01 + 5 * token)
    found = [(0.7, 8), (0.7, 8)]
    assert sum(cheap.counts(2, found, 99)) > 8 and cheap.counts(2, found, 3) == [2, 1]
    assert dear.counts(2, found, 99) == [0, 0]
    assert StepCost().counts(2, found, 99) == [0, 0]  # nothing is known of such a step


@needs_kernels
@pytest.mark.parametrize("bits", [8, 0])
def test_rows_beside_each_other_are_computed_as_alone(bits):
    """What `guesses_beside` promises: of float weights as many tokens as the kernels say, of integers any number."""
    network = KernelNetwork(random_weights(bits=bits).weights())
    tokens = np.asarray([ids(1, 40)], np.int32)

    def logits(cuts):
        cache, found, begin = network.new_cache(1), [], 0
        for size in cuts:
            piece = tokens[:, begin : begin + size]
            found.append(network.forward(piece, np.asarray([size], np.int32), cache, np.arange(size, dtype=np.int32)))
            begin += size
        return np.concatenate(found)

    one_by_one = logits([1] * 40)
    floats = 3 + network.guesses_beside(3, has_adapters=True)
    for most in (2, 5, 8, 9, 13, 16, 20, 27, 40):
        if not bits and most > floats:
            continue
        assert np.array_equal(logits([most] * (40 // most)), one_by_one[: 40 // most * most])
    assert network.guesses_beside(3, has_adapters=False) >= 5
    assert floats >= 8 and network.guesses_beside(floats - 1, has_adapters=True) == 1
    assert network.guesses_beside(floats + 4, has_adapters=True) == 0


@needs_kernels
@pytest.mark.parametrize("bits", [8, 0])
def test_the_same_tokens_in_fewer_steps(bits, monkeypatch):
    monkeypatch.setattr(StepCost, "counts", lambda self, rows, found, most: _all(found, most))
    weights, found, steps = random_weights(vocabulary=5, bits=bits), {}, {}
    configs = [
        GenerationConfig(max_new_tokens=150),
        GenerationConfig(max_new_tokens=150, do_sample=True, temperature=0.7, seed=3),
        GenerationConfig(max_new_tokens=60, do_sample=True, temperature=0.7, seed=4, num_return_sequences=2),
    ]
    for guesses in (0, 6):
        with Watched(weights) as watched:
            found[guesses] = []
            for config in configs:  # prompts of one call make the same batches every time
                wanted = config.updated(prompt_lookup_num_tokens=guesses)
                tickets = watched.engine.submit_all([[1, 2, 3, 1, 2], [4, 0, 1, 2]], wanted)
                found[guesses] += [[one.ids for one in ticket.results()] for ticket in tickets]
            steps[guesses], figures = len(watched.steps), watched.engine.figures[2:4]
            assert figures[0] >= figures[1] and (figures[1] > 50) == (guesses > 0)
            steps_of_answers = [step for step in watched.steps if step[:2] != [5, 4]]
            most = min(28, 4 + watched.network.guesses_beside(4, has_adapters=False))
            assert bits or max(map(sum, steps_of_answers)) == (most if guesses else 4)
    assert found[0] == found[6] and steps[6] < 0.8 * steps[0]


def _all(found, most: int) -> list[int]:
    """All guesses that there may be."""
    counts = []
    for _, size in found:
        counts.append(min(size, most))
        most -= counts[-1]
    return counts


@needs_kernels
def test_draws_with_guesses_follow_the_distribution(monkeypatch):
    """3,840 rows draw two tokens after a prompt whose end was there before: chi-square of the second one."""
    monkeypatch.setattr(StepCost, "counts", lambda self, rows, found, most: _all(found, most))
    weights, prompt = random_weights(vocabulary=5), [1, 2, 3, 1, 2]
    several = {"num_return_sequences": 64, "prompt_lookup_num_tokens": 2}
    config = GenerationConfig(max_new_tokens=3, do_sample=True, top_k=0, **several)
    counts = np.zeros((5, 5))
    with Watched(weights, max_num_seqs=64) as watched:
        for seed in range(60):
            for result in watched.engine.submit(prompt, config.updated(seed=seed)).results():
                counts[result.ids[0], result.ids[1]] += 1
        guessed, right = watched.engine.figures[2:4]
        assert guessed > 1000 and 0 < right < guessed
        network = watched.network
        chance = 0.0
        for first in range(5):
            cache, row = network.new_cache(1), np.asarray([[*prompt, first]], np.int32)
            logits = network.forward(row, np.asarray([6]), cache, np.asarray([4, 5], np.int32))
            before, after = (_probabilities(one) for one in logits)
            expected = counts.sum() * before[first] * after
            chance += ((counts[first] - expected) ** 2 / expected).sum()
    assert chance < 24 + 5 * np.sqrt(2 * 24)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    found, probabilities = distribution(logits, temperature=1.0, top_k=0, top_p=1.0)
    assert found.tolist() == list(range(len(logits)))
    return probabilities


def test_a_network_that_checks_no_guesses_says_so(caplog):
    caplog.set_level("INFO", logger="mindformers_glm")
    engine = Engine(NumpyNetwork(), prompt_lookup_num_tokens=10)
    try:
        assert engine.defaults.prompt_lookup_num_tokens == 0 and not engine.checks_guesses
        asked = engine.defaults.updated(max_new_tokens=3)
        plain = engine.submit([1, 2, 1], asked).results()[0].ids
        assert "prompt_lookup_num_tokens" not in caplog.text
        assert engine.submit([1, 2, 1], asked.updated(prompt_lookup_num_tokens=4)).results()[0].ids == plain
        assert (
            "prompt_lookup_num_tokens has no effect: only the network of the CPU kernels checks guesses" in caplog.text
        )
    finally:
        engine.close()
