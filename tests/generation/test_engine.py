"""The engine over a NumPy network: every mixture of requests gives what each gives alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_network import NumpyNetwork
from waiting import until

from mindformers_glm.errors import ConfigError, GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate
from mindformers_glm.generation.sampling import log_softmax


def alone(network, prompt, config, *, index=0):
    """Greedy search by full forwards, with the rules of ending written again."""
    ids, limit = list(prompt), config.limits(prompt, seq_length=network.max_length).max_new
    while len(ids) - len(prompt) < limit:
        ids.append(int(network.logits(ids).argmax()))
        if ids[-1] in config.stop_ids:
            break
    return ids[len(prompt) :]


def test_greedy_is_the_argmax_of_full_forwards(network, engine):
    prompts = [[1, 2, 3], [7], list(range(20)), [5, 5, 5, 5]]
    config = GenerationConfig(max_new_tokens=12, eos_token_id=[4, 9])
    results = generate(engine, prompts, config)
    assert [result.ids for result in results] == [alone(network, prompt, config) for prompt in prompts]
    for result in results:
        assert result.finish_reason == ("stop" if result.ids[-1] in (4, 9) else "length")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 39), min_size=1, max_size=40), st.integers(1, 30)), min_size=1, max_size=7
    ),
    st.booleans(),
    st.integers(1, 16),
    st.sampled_from([5, 16, 256]),
)
def test_any_mixture_gives_what_each_gives_alone(requests, use_past, max_num_seqs, chunk):
    network = NumpyNetwork()
    engine = Engine(network, max_num_seqs=max_num_seqs, chunk=chunk)
    configs = [GenerationConfig(max_new_tokens=new, eos_token_id=3, use_past=use_past) for _, new in requests]
    tickets = [engine.submit(prompt, config) for (prompt, _), config in zip(requests, configs, strict=True)]
    found = [ticket.results()[0].ids for ticket in tickets]
    engine.close()
    assert found == [alone(network, prompt, config) for (prompt, _), config in zip(requests, configs, strict=True)]


def test_samples_depend_on_their_seed_alone(network, engine):
    prompts = [[1, 2], [9, 9, 9], [4]]
    config = GenerationConfig(max_new_tokens=10, do_sample=True, top_k=0, seed=11)
    together = generate(engine, prompts, config)
    again = [engine.submit(prompt, config, index=row).results()[0] for row, prompt in enumerate(prompts)]
    uncached = generate(engine, prompts, config.updated(use_past=False))
    assert [r.ids for r in together] == [r.ids for r in again] == [r.ids for r in uncached]
    other = generate(engine, prompts, config.updated(seed=12))
    assert [r.ids for r in together] != [r.ids for r in other]
    assert {r.seed for r in together} == {11}


def test_a_seed_that_was_drawn_is_told_and_repeats(engine):
    config = GenerationConfig(max_new_tokens=10, do_sample=True, top_k=0)
    first = generate(engine, [[1, 2], [3]], config)
    assert first[0].seed == first[1].seed is not None
    again = generate(engine, [[1, 2], [3]], config.updated(seed=first[0].seed))
    assert [r.ids for r in first] == [r.ids for r in again]
    assert generate(engine, [[1, 2]], config)[0].seed != first[0].seed


def test_several_results_of_one_prompt(engine):
    config = GenerationConfig(max_new_tokens=8, do_sample=True, top_k=0, seed=1, num_return_sequences=3, eos_token_id=3)
    results = generate(engine, [[1, 2], [5]], config)
    assert len(results) == 6
    assert len({tuple(result.ids) for result in results[:3]}) == 3
    uncached = generate(engine, [[1, 2], [5]], config.updated(use_past=False))
    assert [r.ids for r in results] == [r.ids for r in uncached]


def test_a_prompt_in_pieces_is_the_whole_prompt(network):
    prompt = np.random.default_rng(0).integers(0, 40, 100).tolist()
    config = GenerationConfig(max_new_tokens=6, output_logprobs=True)
    results = []
    for chunk in (7, 32, 200):
        engine = Engine(network, chunk=chunk)
        results.append(generate(engine, [prompt], config)[0])
        engine.close()
    assert results[0].ids == results[1].ids == results[2].ids == alone(network, prompt, config)
    np.testing.assert_allclose(results[0].logprobs, results[2].logprobs, atol=1e-5)
    assert max(width for _, width in network.forwards[:15]) == 7


def test_a_kept_prefix_saves_work_and_changes_nothing(network, engine):
    config = GenerationConfig(max_new_tokens=5)
    first = list(range(30))
    reply = engine.submit(first, config, reuse_prefix=True).results()[0].ids
    second = [*first, *reply, 7, 8]
    network.forwards.clear()
    result = engine.submit(second, config, reuse_prefix=True).results()[0]
    assert network.forwards[0] == (1, 3)  # the reply's last token and the two new ones
    assert result.ids == alone(network, second, config)
    network.mix = network.mix + 0.25  # other weights: what was kept is worth nothing
    network.forwards.clear()
    result = engine.submit(second, config, reuse_prefix=True).results()[0]
    assert network.forwards[0] == (1, 37 - 5 + len(reply))
    assert result.ids == alone(network, second, config)
    engine.forget()
    network.forwards.clear()
    engine.submit(second, config, reuse_prefix=True).results()
    assert network.forwards[0][1] == len(second)


def test_prompts_of_one_call_make_the_same_batches_every_time(network, engine):
    shapes = []
    for _ in range(5):
        network.forwards.clear()
        generate(engine, [[1, 2], [3], [4, 5, 6]], GenerationConfig(max_new_tokens=4))
        shapes.append(list(network.forwards))
    assert shapes == [[(3, 3), (4, 1), (4, 1), (4, 1)]] * 5


def test_a_cancelled_reply_leaves_its_cache_too(network, engine):
    steps = threading.Semaphore(1)
    network.hook = steps.acquire
    ticket = engine.submit([1, 2, 3], GenerationConfig(max_new_tokens=500), reuse_prefix=True)
    seen = []
    for token in ticket:
        seen.append(token.choice.token)
        if len(seen) == 10:
            ticket.cancel()
        steps.release()
    network.hook = None
    network.forwards.clear()
    engine.submit([1, 2, 3, *seen[:9], 7], GenerationConfig(max_new_tokens=1), reuse_prefix=True).results()
    assert network.forwards[0] == (1, 1)


def test_rows_come_and_go(network, engine):
    """Short requests that join a long one finish on their way, and the batch shrinks again."""
    config = GenerationConfig(max_new_tokens=200)
    long = engine.submit([1, 2, 3], config)
    next(iter(long))
    short = [engine.submit([row], GenerationConfig(max_new_tokens=4)) for row in range(6)]
    assert [ticket.results()[0].ids for ticket in short] == [
        alone(network, [row], GenerationConfig(max_new_tokens=4)) for row in range(6)
    ]
    assert long.results()[0].ids == alone(network, [1, 2, 3], config)
    assert max(rows for rows, width in network.forwards if width == 1) > 1


def test_memory_follows_the_tokens_in_use(network):
    """One long row does not make seven short ones long."""
    engine = Engine(network, max_num_seqs=8)
    tickets = [engine.submit([1] * 1500, GenerationConfig(max_new_tokens=300))]
    tickets += [engine.submit([row], GenerationConfig(max_new_tokens=20)) for row in range(7)]
    for ticket in tickets:
        ticket.results()
    engine.close()
    assert max(rows * slots for rows, slots in network.slots) < 3000


def test_cancel_takes_effect_at_the_next_token(network, engine):
    steps = threading.Semaphore(1)
    network.hook = steps.acquire
    ticket = engine.submit([1, 2], GenerationConfig(max_new_tokens=1000))
    seen = 0
    for seen, _ in enumerate(ticket, 1):  # noqa: B007
        if seen == 5:
            ticket.cancel()
        steps.release()
    assert seen <= 6  # the step that had begun, at most
    (result,) = ticket.results()
    assert result.finish_reason == "cancelled" and len(result.ids) == seen


def test_what_waits_can_be_cancelled(network):
    engine = Engine(network, max_num_seqs=1)
    cancelled = threading.Event()
    network.hook = cancelled.wait
    first = engine.submit([1], GenerationConfig(max_new_tokens=30))
    second = engine.submit([2], GenerationConfig(max_new_tokens=30))
    second.cancel()
    cancelled.set()
    assert second.results()[0] == second.results()[0]._replace(ids=[], finish_reason="cancelled")
    assert len(first.results()[0].ids) == 30
    engine.close()


def test_one_thread_drives_the_network(network, engine):
    threads = set()
    network.hook = lambda: threads.add(threading.current_thread())
    config = GenerationConfig(max_new_tokens=5)
    callers = [threading.Thread(target=lambda: generate(engine, [[1], [2, 3]], config)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(threads) == 1 and threads.isdisjoint({threading.main_thread(), *callers})


def test_tokens_come_in_the_callers_thread_and_an_exception_cancels(network, engine):
    seen = []

    def on_token(row, token):
        assert threading.current_thread() is threading.main_thread()
        seen.append((row, token.choice.token))
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(engine, [[1], [2]], GenerationConfig(max_new_tokens=500), on_token=on_token)
    assert len(seen) == 6
    assert len(generate(engine, [[1]], GenerationConfig(max_new_tokens=3))[0].ids) == 3  # the engine goes on


def test_a_stop_function_ends_one_row(network, engine):
    config = GenerationConfig(max_new_tokens=50, stop=lambda new: len(new) == 4)
    ended, free = (
        engine.submit([1, 2], config).results()[0],
        engine.submit([1, 2], GenerationConfig(max_new_tokens=6)).results()[0],
    )
    assert ended.ids == free.ids[:4] and ended.finish_reason == "stop"


def test_an_error_in_a_users_function_ends_that_request_alone(engine):
    def broken(new):
        raise ZeroDivisionError("mine")

    bad = engine.submit([1, 2], GenerationConfig(max_new_tokens=5, stop=broken))
    good = engine.submit([3], GenerationConfig(max_new_tokens=5))
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.results()
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.results()
    assert len(good.results()[0].ids) == 5


def test_a_network_that_fails_fails_the_request_and_not_the_engine(network, engine):
    network.out = network.out * np.nan
    with pytest.raises(GenerationError, match="not a number"):
        generate(engine, [[1, 2]], GenerationConfig(max_new_tokens=5))
    network.out = np.nan_to_num(network.out)
    assert len(generate(engine, [[1, 2]], GenerationConfig(max_new_tokens=5))[0].ids) == 5


@pytest.mark.parametrize(
    ("prompt", "config", "message"),
    [
        ([], {}, "prompt 0 is empty"),
        ([1] * 2048, {}, "seq_length is 2048"),
        ([40], {}, "holds id 40 and the model knows 0 to 39"),
        ([-1], {}, "holds id -1"),
        ([1], {"num_beams": 17}, "17 sequences for one prompt"),
    ],
)
def test_requests_that_cannot_be_served(engine, prompt, config, message):
    with pytest.raises(GenerationError, match=message):
        generate(engine, [prompt], GenerationConfig(max_new_tokens=2, **config))


def test_a_budget_for_steps_needs_a_cache_of_blocks(network):
    with pytest.raises(ConfigError, match="^max_num_batched_tokens: got 64. Only with the kernels do prompts"):
        Engine(network, max_num_batched_tokens=64)


def test_a_closed_engine_says_so(network):
    engine, steps = Engine(network), threading.Semaphore(1)
    network.hook = steps.acquire
    ticket = engine.submit([1], GenerationConfig(max_new_tokens=500))
    next(iter(ticket))
    closing = threading.Thread(target=engine.close)
    closing.start()

    def refused():
        try:
            engine.submit([1], GenerationConfig(max_new_tokens=2))
        except GenerationError as error:
            return str(error)

    assert until(refused) == "this engine is closed"
    steps.release()  # the step that had begun is made
    closing.join()
    assert ticket.results()[0].finish_reason == "cancelled"


def test_an_idle_engine_keeps_no_thread(network, monkeypatch):
    monkeypatch.setattr("mindformers_glm.generation.engine.IDLE_SECONDS", 0.05)
    engine, before = Engine(network), set(threading.enumerate())
    for _ in range(2):
        generate(engine, [[1]], GenerationConfig(max_new_tokens=2))
        for owner in set(threading.enumerate()) - before:
            owner.join(2)
            assert not owner.is_alive()


@pytest.mark.parametrize("chunk", [3, 256])
def test_scores_are_log_probabilities(network, chunk):
    engine = Engine(network, chunk=chunk)
    context, continuations = [1, 2, 3, 4, 5], [[7], [8, 9, 10, 11, 12], [0, 1]]
    greedy = alone(network, context, GenerationConfig(max_new_tokens=4))
    scores = engine.score(context, [*continuations, greedy])
    for score, continuation in zip(scores, [*continuations, greedy], strict=True):
        logprobs = log_softmax(network.all_logits([*context, *continuation]))
        expected = [logprobs[len(context) - 1 + i, token] for i, token in enumerate(continuation)]
        np.testing.assert_allclose(score.logprobs, expected, atol=1e-5)
    assert [score.is_greedy for score in scores][-1]
    with pytest.raises(GenerationError, match="at least one id"):
        engine.score([], [[1]])
    engine.close()


def test_logprobs_of_chosen_tokens(network, engine):
    config = GenerationConfig(max_new_tokens=5, output_logprobs=True, top_logprobs=2, repetition_penalty=1.5)
    (result,) = generate(engine, [[1, 2]], config)
    expected = engine.score([1, 2], [result.ids])[0].logprobs
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-5)
    assert all(len(best) == 2 and best[0][1] >= best[1][1] for best in result.best)


def test_the_former_name_of_max_num_seqs_is_taken():
    engine = Engine(NumpyNetwork(), max_rows=3)
    assert engine.max_num_seqs == 3
    engine.close()
