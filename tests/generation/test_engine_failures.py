"""Whatever is raised in the engine's thread reaches those who wait, and the engine goes on."""

from __future__ import annotations

import threading

import pytest

from mindformers_glm.generation.config import GenerationConfig
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
