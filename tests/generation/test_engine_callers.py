"""What callers do - listeners that raise, forks, waiting in the engine's thread - harms nobody else's request."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import pytest
from test_engine_failures import outcome

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate

CONFIG = GenerationConfig(max_new_tokens=6)


def raises(*_):
    raise ZeroDivisionError("mine")


def raises_at_the_end(*given):
    if given[-1] is None:
        raise ZeroDivisionError("mine")


@pytest.mark.parametrize("listener", [raises, raises_at_the_end])
@pytest.mark.parametrize("use_past", [True, False])
def test_a_listener_that_raises_ends_its_request_alone(engine, network, listener, use_past):
    config = CONFIG.updated(use_past=use_past)
    bad = engine.submit_all([[1, 2], [3, 4]], config, listener=listener)
    good = [engine.submit([5, place], config) for place in range(3)]
    worse = engine.submit([1], config, listener=listener)
    for ticket in [*bad, worse]:
        assert isinstance(outcome(ticket.results), ZeroDivisionError)
    expected = generate(Engine(network), [[5, place] for place in range(3)], config)
    assert [ticket.results()[0].ids for ticket in good] == [result.ids for result in expected]
    assert outcome(lambda: generate(engine, [[7, 8]], CONFIG)) is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_listener_that_exits(engine, kind):
    def leave(item):
        raise kind

    bad = engine.submit([1, 2], CONFIG, listener=leave)
    assert isinstance(outcome(bad.results), kind)
    assert outcome(lambda: generate(engine, [[7, 8]], CONFIG)) is None


def test_a_listener_gets_every_item_and_results_still_wait(engine):
    seen = []
    ticket = engine.submit([1, 2], CONFIG, listener=seen.append)
    found = ticket.results()[0]
    assert [item.choice.token for item in seen[:-1]] == found.ids
    assert seen[-1] is None
    assert ticket.results() == [found]


def test_a_logits_processor_that_raises_ends_its_request_alone(engine, network):
    bad = engine.submit([1, 2], CONFIG.updated(logits_processor=raises))
    good = engine.submit([1, 2], CONFIG)
    assert isinstance(outcome(bad.results), ZeroDivisionError)
    assert good.results()[0].ids == generate(Engine(network), [[1, 2]], CONFIG)[0].ids


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (None, "NoneType"),
        ([255], "list"),
        (np.ones(3, bool), r"bool \(3,\)"),
        (np.ones((2, 2), np.uint8), r"uint8 \(2, 2\)"),
    ],
)
def test_a_token_mask_of_another_form_is_named_and_ends_its_request_alone(engine, mask, fault):
    bad = engine.submit([1, 2], CONFIG.updated(token_mask=lambda new: mask))
    good = engine.submit([1, 2], CONFIG.updated(token_mask=lambda new: np.full(100, 255, np.uint8)))
    with pytest.raises(GenerationError, match=f"token_mask.*{fault}"):
        bad.results()
    assert good.results()[0].ids == engine.submit([1, 2], CONFIG).results()[0].ids


@pytest.mark.parametrize(
    ("processor", "fault"),
    [(lambda ids, logits: logits * np.nan, "not finite"), (lambda ids, logits: logits[:, :3], r"shape \(1, 3\)")],
)
def test_a_logits_processor_that_returns_no_logits_is_named(engine, processor, fault):
    with pytest.raises(GenerationError, match=f"logits_processor.*{fault}"):
        generate(engine, [[1, 2]], CONFIG.updated(logits_processor=processor))


def test_numbers_that_are_none_end_the_row_that_has_them(engine, network, monkeypatch):
    original = network.forward

    def forward(tokens, counts, cache, wanted):
        logits = original(tokens, counts, cache, wanted)
        for row, place in enumerate([] if wanted is None else wanted):
            if tokens.ravel()[place] == 13:
                logits[row, 0] = np.nan
        return logits

    monkeypatch.setattr(network, "forward", forward)
    bad, good = engine.submit_all([[1, 13], [1, 12]], GenerationConfig(max_new_tokens=1))
    assert isinstance(outcome(bad.results), GenerationError)
    assert len(good.results()[0].ids) == 1


def test_waiting_in_the_engines_thread_is_refused_at_once(engine, network):
    other = Engine(network)

    def waits(item):
        other.submit([1], CONFIG).results()

    assert "may not wait" in str(outcome(engine.submit([1, 2], CONFIG, listener=waits).results))
    scores = engine.submit([1, 2], CONFIG, listener=lambda item: other.score([1], [[2]]))
    assert "may not wait" in str(outcome(scores.results))
    assert outcome(lambda: generate(engine, [[7, 8]], CONFIG)) is None


@pytest.mark.parametrize("prompt", [[-1, 2], [1, 40], [10**12], [-(2**40)]])
def test_ids_outside_the_vocabulary_are_refused_and_the_next_call_is_well(engine, network, prompt):
    for call in (lambda: engine.submit(prompt, CONFIG), lambda: engine.score([1], [prompt])):
        with pytest.raises(GenerationError, match=r"holds id -?\d+ and the model knows 0 to 39"):
            call()
    assert network.forwards == []
    assert outcome(lambda: generate(engine, [[1, 2]], CONFIG)) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_generates(engine):
    first = generate(engine, [[1, 2]], CONFIG)
    busy = engine.submit([3], GenerationConfig(max_new_tokens=500))
    next(iter(busy))
    answers = multiprocessing.SimpleQueue()

    def child():
        answers.put(generate(engine, [[1, 2]], CONFIG)[0].ids)

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert answers.get() == first[0].ids
    assert len(busy.results()[0].ids) == 500  # the parent's request goes on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_in_a_listener(engine):
    codes = []

    def forks(item):
        if item is None:
            child = os.fork()
            if child == 0:
                os._exit(7)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert outcome(engine.submit([1, 2], CONFIG, listener=forks).results) is None
    assert codes == [7]
    assert outcome(lambda: generate(engine, [[7, 8]], CONFIG)) is None


def test_threads_with_faults_beside_them_get_what_each_gets_alone(engine, network):
    config = GenerationConfig(max_new_tokens=12, eos_token_id=3)
    prompts = [[1 + number % 30, number % 7, number % 11] for number in range(64)]
    expected = [result.ids for result in generate(Engine(network), prompts, config)]
    found: dict[int, object] = {}

    def work(number):
        kind = number % 8
        try:
            if kind == 1:
                engine.submit(prompts[number], config, listener=raises).results()
            elif kind == 3:
                engine.submit([*prompts[number], 40], config)
            elif kind == 5:
                ticket = engine.submit(prompts[number], config)
                next(iter(ticket))
                ticket.cancel()
                found[number] = ticket.results()[0].ids
            else:
                found[number] = engine.submit(prompts[number], config, reuse_prefix=kind == 7).results()[0].ids
        except (ZeroDivisionError, GenerationError) as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == list(range(64))
    for number, value in found.items():
        if number % 8 == 1:
            assert isinstance(value, ZeroDivisionError)
        elif number % 8 == 3:
            assert isinstance(value, GenerationError)
        elif number % 8 == 5:
            assert value == expected[number][: len(value)]
        else:
            assert value == expected[number]
