"""Whatever is raised in the engine's thread reaches those who wait, and the engine goes on."""

from __future__ import annotations

import gc
import threading
import traceback
import weakref

import numpy as np
import pytest

from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import generate

SECONDS = 10


class Stopped(BaseException):
    """As KeyboardInterrupt and SystemExit: no Exception."""


def outcome(work) -> BaseException | None:
    """What `work` raises in a thread of its own; fails when it does not end."""
    found = []

    def run():
        try:
            work()
            found.append(None)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert found, "the one who waits was forgotten"
    return found[0]


def fails(kind, name, network, monkeypatch):
    """The network's function `name` raises once."""
    original = getattr(network, name)

    def broken(*arguments):
        monkeypatch.setattr(network, name, original)
        raise kind("once")

    monkeypatch.setattr(network, name, broken)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit, Stopped])
@pytest.mark.parametrize(
    ("name", "use_past"),
    [("forward", True), ("forward", False), ("new_cache", True), ("new_cache", False), ("version", True)],
)
def test_an_error_of_the_network_ends_what_waits_for_it(network, engine, monkeypatch, kind, name, use_past):
    config = GenerationConfig(max_new_tokens=3, use_past=use_past)
    fails(kind, name, network, monkeypatch)
    tickets = [engine.submit([1, 2], config, reuse_prefix=True), engine.submit([3], config)]
    errors = [outcome(ticket.results) for ticket in tickets]
    assert isinstance(errors[0], kind)
    assert errors[1] is None or isinstance(errors[1], kind)
    assert outcome(lambda: generate(engine, [[1, 2], [3]], config)) is None
    assert outcome(lambda: engine.submit([4], config, reuse_prefix=True).results()) is None


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, Stopped])
def test_an_error_while_tokens_come(network, engine, monkeypatch, kind):
    ticket = engine.submit([1, 2], GenerationConfig(max_new_tokens=1000))
    tokens = iter(ticket)
    next(tokens)
    fails(kind, "forward", network, monkeypatch)
    assert isinstance(outcome(lambda: list(tokens)), kind)
    assert outcome(lambda: generate(engine, [[1]], GenerationConfig(max_new_tokens=2))) is None


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, Stopped])
def test_an_error_while_scoring(network, engine, monkeypatch, kind):
    fails(kind, "forward", network, monkeypatch)
    assert isinstance(outcome(lambda: engine.score([1, 2], [[3]])), kind)
    assert outcome(lambda: engine.score([1, 2], [[3]])) is None


def test_a_stop_function_that_exits_ends_its_request(engine):
    def leaves(new):
        raise SystemExit(3)

    bad = engine.submit([1, 2], GenerationConfig(max_new_tokens=5, stop=leaves))
    good = engine.submit([3], GenerationConfig(max_new_tokens=5))
    assert isinstance(outcome(bad.results), SystemExit)
    assert outcome(good.results) is None


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("name", ["forward", "new_cache", "version"])
def test_an_error_in_a_batch_of_scores_leaves_the_next_one_well(network, engine, monkeypatch, kind, name):
    common = list(range(20))  # long enough to be computed once and kept
    contexts, wanted = [[*common, 21], [*common, 22, 23]], [[1, 2], [3]]
    expected = [network.logits(context) for context in contexts]

    def check():
        for logits, ids, (found, best) in zip(expected, wanted, engine.score_batch(contexts, wanted), strict=True):
            logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            np.testing.assert_allclose(found, logprobs[ids], atol=1e-5)
            assert best == logits.argmax()

    for _ in range(2):  # without a cached prefix, and with one
        fails(kind, name, network, monkeypatch)
        assert isinstance(outcome(check), kind)
        assert outcome(check) is None
    assert outcome(lambda: engine.score([1, 2], [[3]])) is None


def test_an_error_between_the_kept_beginning_and_its_contexts(network, engine):
    """The beginning is in its cache, the contexts are not: the next call starts from the right one."""
    contexts, wanted, calls = [[*range(20), 21], [*range(20), 22]], [[1], [2]], []

    def second():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("once")

    network.hook = second
    assert isinstance(outcome(lambda: engine.score_batch(contexts, wanted)), RuntimeError)
    network.hook = None
    for (_, best), context in zip(engine.score_batch(contexts, wanted), contexts, strict=True):
        assert best == network.logits(context).argmax()


def raises(item):
    raise ZeroDivisionError("mine")


def raises_from_another(item):
    try:
        raises(item)
    except ZeroDivisionError as error:
        raise ValueError("mine too") from error


def raises_at_the_end(item):
    if item is None:
        raise ZeroDivisionError("mine")


@pytest.fixture
def living(network, monkeypatch):
    """A function: how many arrays of logits and caches are alive; there is no garbage collection meanwhile."""
    made = []

    def watch(original):
        def watched(*arguments):
            value = original(*arguments)
            if value is not None:
                made.append(weakref.ref(value))
            return value

        return watched

    for name in ("forward", "new_cache"):
        monkeypatch.setattr(network, name, watch(getattr(network, name)))
    gc.collect()
    gc.disable()
    yield lambda: sum(value() is not None for value in made)
    gc.enable()


FUNCTIONS = [
    {"listener": raises},
    {"listener": raises_from_another},
    {"listener": raises_at_the_end},
    {"stop": raises},
    {"logits_processor": lambda ids, logits: logits[len(logits) + 1]},
]


@pytest.mark.parametrize("use_past", [True, False])
@pytest.mark.parametrize("functions", FUNCTIONS, ids=lambda functions: "-".join(map(str, functions)))
def test_an_error_holds_no_values(engine, living, functions, use_past):
    listener = functions.get("listener")
    own = {name: function for name, function in functions.items() if name != "listener"}

    def request():
        config = GenerationConfig(max_new_tokens=3, use_past=use_past)
        good = engine.submit([3], config)
        ticket = engine.submit([1, 2], config.updated(**own), listener=listener)
        error = None
        try:
            ticket.results()
        except (ZeroDivisionError, ValueError, IndexError) as raised:
            error = raised
        good.results()
        engine.forget()  # its thread is done with the step of the error
        return weakref.ref(ticket), error

    ticket, error = request()
    assert living() == 0
    lines = "".join(traceback.format_exception(error))
    assert "raises" in lines or "logits[len(logits) + 1]" in lines  # where it happened is still told
    error.__traceback__ = None  # the call of this test, where the ticket has a name
    assert ticket() is None


@pytest.mark.parametrize("work", ["score", "score_batch", "submit"])
def test_an_error_of_the_network_holds_no_values(network, engine, living, work):
    calls = []

    def second():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("once")

    def request():
        if work == "score":
            engine.score([1, 2], [[3, 4], [5, 6]])
        elif work == "score_batch":
            engine.score_batch([[*range(20), 21], [*range(20), 22]], [[1], [2]])
        else:
            engine.submit([1, 2], GenerationConfig(max_new_tokens=3)).results()

    network.hook = second
    with pytest.raises(RuntimeError, match="once"):
        request()
    engine.forget()
    assert living() == 0


def test_those_who_wait_twice_get_the_same_lines(engine):
    ticket = engine.submit([1, 2], GenerationConfig(max_new_tokens=3), listener=raises)
    sizes = set()
    for _ in range(4):
        with pytest.raises(ZeroDivisionError) as caught:
            ticket.results()
        sizes.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(sizes) == 1


def test_a_listener_that_raises_when_the_engine_closes(network, living):
    engine = Engine(network)

    def closes(item):
        engine.close()
        raises_at_the_end(item)

    ticket = engine.submit([1, 2], GenerationConfig(max_new_tokens=1000), listener=closes)
    assert isinstance(outcome(ticket.results), ZeroDivisionError)
    engine.close()
    for thread in threading.enumerate():
        if thread.name == "generation":
            thread.join(SECONDS)
    assert living() == 0


@pytest.mark.parametrize("work", ["submit", "score", "score_batch"])
def test_an_error_that_was_caught_is_gone(network, engine, living, monkeypatch, work):
    found = []

    def request():
        try:
            if work == "submit":
                engine.submit([1, 2], GenerationConfig(max_new_tokens=3)).results()
            elif work == "score":
                engine.score([1, 2], [[3, 4]])
            else:
                engine.score_batch([[1, 2]], [[3]])
        except Stopped as error:
            found.append(weakref.ref(error))

    fails(Stopped, "forward", network, monkeypatch)
    request()
    engine.forget()
    assert found[0]() is None
