"""Prompts and answers of many requests in one cache of blocks: who goes next, what is shared, what waits."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from kernel_engine import Watched, ids, random_weights

from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.generate import generate
from mindformers_glm.ops.kernels import library

pytestmark = pytest.mark.skipif(library.library() is None, reason="the kernels are not built")


@pytest.fixture(scope="module")
def weights():
    return random_weights()


class Held:
    """Holds the engine in its next step until everything that a test submits has arrived."""

    def __init__(self, watched: Watched) -> None:
        self._watched, self._begun, self._go = watched, threading.Event(), threading.Event()

    def __enter__(self) -> None:
        def wait():
            self._watched.hook = None
            self._begun.set()
            self._go.wait(20)

        self._watched.hook = wait
        self.first = self._watched.engine.submit([1, 2], GenerationConfig(max_new_tokens=2))
        assert self._begun.wait(20)

    def __exit__(self, *error) -> None:
        self._go.set()


def one(watched: Watched, prompt: list[int], new: int, **manner):
    return watched.engine.submit(prompt, GenerationConfig(max_new_tokens=new), **manner)


def test_an_answer_goes_on_beside_a_long_prompt(weights):
    """Each step has the answer's next token, and no more of the prompt than the budget leaves."""
    prompt = ids(1, 400)
    with Watched(weights, max_num_batched_tokens=33, chunk=256) as watched:
        answer = one(watched, [5, 6], 120)
        next(iter(answer))
        arrived, tokens = len(watched.steps), []
        long = watched.engine.submit(prompt, GenerationConfig(max_new_tokens=1), listener=tokens.append)
        assert len(answer.results()[0].ids) == 120
        long.results()
        beside = [step for step in watched.steps[arrived:] if max(step) > 1]
        assert sum(max(step) for step in beside) == 400
        assert sorted(beside, key=max)[-1] == [1, 32] and all(step[0] == 1 for step in beside)
        alone = len(watched.steps)
        assert one(watched, ids(2, 400), 1).results()
        assert watched.steps[alone:] == [[256], [144]]


def test_a_budget_below_the_answers_still_lets_prompts_in(weights):
    with Watched(weights, max_num_batched_tokens=2, max_num_seqs=8) as watched:
        with Held(watched):
            answers = [one(watched, [row], 40) for row in range(4)]
            late = one(watched, ids(3, 100), 3)
        assert [len(ticket.results()[0].ids) for ticket in (*answers, late)] == [40] * 4 + [3]
        assert max(max(step) for step in watched.steps) == 16


def test_short_prompts_pass_a_long_one_that_does_not_wait_for_ever(weights):
    order: list[str] = []
    with Watched(weights, max_num_seqs=32, chunk=32) as watched:

        def ended(name):
            return lambda item: order.append(name) if item is None else None

        config = GenerationConfig(max_new_tokens=1)
        with Held(watched):
            tickets = [watched.engine.submit(ids(9, 320), config, listener=ended("long"))]
            tickets += [watched.engine.submit(ids(row, 20), config, listener=ended(f"early {row}")) for row in range(3)]
        steps = 0

        def more():  # a short prompt arrives at every step
            nonlocal steps
            steps += 1
            if steps <= 40:
                tickets.append(watched.engine.submit(ids(steps, 20), config, listener=ended("later")))

        watched.hook = more
        for ticket in tickets:
            ticket.results()
        watched.hook = None
    place = order.index("long")
    assert {f"early {row}" for row in range(3)} <= set(order[:place])
    assert 5 < place < 25 and len(order) > 35  # 320 / 20 short ones pass, and those that came together with them


def test_the_lower_priority_goes_first_and_equal_ones_as_they_came(weights):
    order: list[int] = []
    with Watched(weights, max_num_seqs=1) as watched:
        with Held(watched):
            tickets = [
                watched.engine.submit(
                    [place + 3],
                    GenerationConfig(max_new_tokens=2),
                    priority=priority,
                    listener=lambda item, place=place: order.append(place) if item is None else None,
                )
                for place, priority in enumerate([0, 5, -1, 0, 5, -1])
            ]
        for ticket in tickets:
            ticket.results()
    assert order == [2, 5, 0, 3, 1, 4]


def test_prompts_that_arrive_together_compute_their_beginning_once(weights):
    """Eight requests with one system prompt hold it once, before any of them is over."""
    system, config = ids(4, 200), GenerationConfig(max_new_tokens=30)
    prompts = [[*system, *ids(row + 10, 6)] for row in range(8)]
    with Watched(weights, prefix_tokens=0) as watched:
        alone = [result.ids for result in generate(watched.engine, prompts, config)]
    with Watched(weights) as watched:
        with Held(watched):
            tickets = [watched.engine.submit(prompt, config, reuse_prefix=True) for prompt in prompts]
        assert [ticket.results()[0].ids for ticket in tickets] == alone
        assert sum(count for step in watched.steps for count in step if count > 1) == 2 + 206 + 7 * 6
        assert max(watched.blocks) == 3 + 8  # 236 tokens are four blocks, of which three are everybody's
        assert watched.engine.figures[:2] == (8 * 206, 7 * 200)
        again = len(watched.steps)
        for row in range(4, 8):  # 236 tokens each, of which 192 are kept once: the last seven fit into 512
            assert one(watched, prompts[row], 30, reuse_prefix=True).results()[0].ids == alone[row]
        assert [step for step in watched.steps[again:] if step != [1]] == []


def test_a_prompt_that_ends_with_its_first_token_still_shares_its_beginning(weights):
    system, config = ids(4, 300), GenerationConfig(max_new_tokens=1)
    prompts = [[*system, row] for row in range(4)]
    with Watched(weights, prefix_tokens=100) as watched:  # too few to keep one
        alone = [watched.engine.submit(prompt, config).results()[0].ids for prompt in prompts]
        watched.steps.clear()
        with Held(watched):
            tickets = [watched.engine.submit(prompt, config, reuse_prefix=True) for prompt in prompts]
        assert [ticket.results()[0].ids for ticket in tickets] == alone
        assert sum(map(sum, watched.steps)) == 2 + 1 + 301 + 3


def test_the_first_of_prompts_that_begin_alike_goes_away(weights):
    system, config = ids(4, 300), GenerationConfig(max_new_tokens=10)
    prompts = [[*system, row] for row in range(4)]
    with Watched(weights, chunk=64) as watched:
        alone = [watched.engine.submit(prompt, config).results()[0].ids for prompt in prompts]
        watched.engine.forget()
        begun = len(watched.steps)
        with Held(watched):
            tickets = [watched.engine.submit(prompt, config, reuse_prefix=True) for prompt in prompts]

            def cancel():  # after a piece of the first
                if len(watched.steps) == begun + 4:
                    tickets[0].cancel()

            first = watched.hook
            watched.hook = cancel if first is None else first
        for ticket in tickets[1:]:
            ticket.results()
        assert [ticket.results()[0].ids for ticket in tickets[1:]] == alone[1:]
        assert len(tickets[0].results()[0].ids) == 0
        computed = sum(count for step in watched.steps[begun:] for count in step if count > 2)
        assert computed < 301 + 64 + 10  # the second took over what there was, the others waited for it


def test_a_prompt_is_cancelled_between_its_pieces(weights):
    with Watched(weights, chunk=16) as watched:
        watched.hook = lambda: ticket.cancel() if len(watched.steps) == 3 else None
        with Held(watched):
            pass
        watched.steps.clear()
        ticket = one(watched, ids(5, 400), 5)
        watched.hook = lambda: ticket.cancel() if len(watched.steps) == 3 else None
        (result,) = ticket.results()
        assert (result.ids, result.finish_reason) == ([], "cancelled") and len(watched.steps) <= 4
        watched.hook = None
        watched.engine.forget()
        assert watched.network.blocks.used_blocks == 0


def test_requests_beyond_the_memory_wait_and_none_fails(weights):
    """Twelve of three to eight blocks in a cache of ten, some with a common beginning, some in three rows."""
    random = np.random.default_rng(6)
    requests = []
    for row in range(12):
        prompt = ids(4, 150) + ids(row, int(random.integers(1, 120)))
        several = {"num_return_sequences": 2} if row % 4 == 3 else {}
        drawn = {"do_sample": True, "seed": row, **several}
        requests.append((prompt[: 100 if several else None], GenerationConfig(max_new_tokens=60, **drawn)))
    found = []
    for tokens in (None, 640):
        with Watched(weights, cache_tokens=tokens) as watched:
            with Held(watched):
                tickets = [
                    watched.engine.submit(prompt, config, reuse_prefix=row % 3 > 0)
                    for row, (prompt, config) in enumerate(requests)
                ]
            found.append([[result.ids for result in ticket.results()] for ticket in tickets])
            watched.engine.forget()
            assert watched.network.blocks.used_blocks == 0
            assert tokens is None or max(watched.blocks) <= 10
    assert found[0] == found[1]


@pytest.mark.parametrize("bits", [8, 0])
def test_answers_share_a_small_cache_as_long_as_they_are_short(bits):
    """Six that may need four blocks each, in eight blocks: all at once until they are long, then the youngest wait.

    Float weights give other last bits when they are computed again: there each has its four blocks from the first on.
    """
    weights, config = random_weights(bits=bits), GenerationConfig(max_new_tokens=200, output_logprobs=True)
    prompts, found = [ids(row, 20) for row in range(6)], []
    for tokens in (None, 512):
        with Watched(weights, cache_tokens=tokens) as watched:
            found.append(generate(watched.engine, prompts, config))
            most, preemptions = max(map(len, watched.steps)), watched.engine.figures.preemptions
            assert (most, preemptions > 0) == ((6, tokens is not None) if bits or tokens is None else (2, False))
            assert tokens is None or max(watched.blocks) <= 8
    if bits:
        assert found[0] == found[1]
    assert [len(result.ids) for result in found[1]] == [200] * 6


def test_who_holds_what_type_where_nobody_chose(weights):
    """float16, float32 where weights are; scores are exact either way."""
    context, wanted = ids(7, 100), [[3, 4, 5]]
    scores = {}
    for bits in (8, 0):
        some = weights if bits else random_weights(bits=0)
        for dtype in (None, "float32", "int8"):
            with Watched(some, **({} if dtype is None else {"cache_dtype": dtype})) as watched:
                expected = dtype or ("float16" if bits else "float32")
                assert watched.network.cache_dtype == watched.network.new_cache(1).pool.dtype == expected
                scores[bits, dtype] = watched.engine.score(context, wanted)[0].logprobs
        assert np.array_equal(scores[bits, None], scores[bits, "float32"])
        assert not np.array_equal(scores[bits, None], scores[bits, "int8"])
