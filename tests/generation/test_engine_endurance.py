"""The engine of a real model under faulty callers, and over thousands of requests."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from collections import Counter

import pytest
from numpy_network import NumpyNetwork

from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import engine_of
from mindformers_glm.generation.scheduler import Job

pytestmark = pytest.mark.slow
THREADS, REQUESTS = 64, 5000
REFUSED = 3


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained("glm2_tiny")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained("glm2_tiny")
    return [list(tokenizer(f"类型#裙*颜色#红色*图案#{number}")["input_ids"]) for number in range(THREADS)]


def raises(item):
    raise ZeroDivisionError("mine")


def test_sixty_four_threads_with_faults_beside_them(model, prompts):
    """Half the threads do harm: listeners that raise, cancels, forks, refused ids. The others get their own results."""
    engine = engine_of(model)
    config = engine.defaults.updated(max_new_tokens=16)
    expected = [model.generate(prompt, max_new_tokens=16)[0].tolist()[len(prompt) :] for prompt in prompts]
    found: dict[int, object] = {}

    def harm(number: int, kind: int) -> object:
        if kind == 1:
            return engine.submit(prompts[number], config, listener=raises).results()
        if kind == 3:
            return engine.submit([*prompts[number], -1], config)
        if kind == 5:
            ticket = engine.submit(prompts[number], config)
            next(iter(ticket))
            ticket.cancel()
            return ticket.results()[0].ids
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if engine.submit(prompts[number], config).results()[0].ids == expected[number] else 2
            except GenerationError:
                status = REFUSED
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def work(number: int) -> None:
        kind = number % 8
        try:
            if kind % 2:
                found[number] = harm(number, kind)
            else:
                found[number] = engine.submit(prompts[number], config, reuse_prefix=kind == 4).results()[0].ids
        except (ZeroDivisionError, GenerationError) as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(found) == list(range(THREADS)), "somebody waits for ever"
    for number, value in found.items():
        kind = number % 8
        if kind == 1:
            assert isinstance(value, ZeroDivisionError)
        elif kind == 3:
            assert isinstance(value, GenerationError)
        elif kind == 5:
            assert value == expected[number][: len(value)]
        elif kind == 7:
            assert value in (0, REFUSED), f"the child of {number} ended with {value}"  # refused without kernels
        else:
            assert value == expected[number], number


def test_memory_stays_level_over_thousands_of_requests():
    """64 threads; in ten requests one fails in its listener, one is refused, one is cancelled; some threads fork.

    No garbage collection frees what they used. Logits and caches are counted by tracemalloc, as all arrays are: the
    memory of a process also depends on malloc. The network is the one in NumPy.
    """
    engine = Engine(NumpyNetwork(vocab_size=4096))
    config = engine.defaults.updated(max_new_tokens=2)

    def one(number: int) -> str:
        prompt, kind = [1, 2, number % THREADS], number % 10
        if number % 500 == 0:
            child = os.fork()
            if child == 0:
                os._exit(len(engine.submit(prompt, config).results()[0].ids))
            return f"forked {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
        try:
            if kind == 6:
                engine.submit([*prompt, engine.vocab_size], config)
            ticket = engine.submit(prompt, config, listener=raises if kind == 3 else None, reuse_prefix=kind % 2 == 0)
            if kind == 8:
                ticket.cancel()
            ticket.results()
        except ZeroDivisionError:
            ticket = None  # or the error would hold this call, and the call the ticket that holds the error
            return "raised"
        except GenerationError:
            return "refused"
        return "well"

    def serve(count: int) -> int:
        """Bytes that are held when so many requests are over."""
        found = Counter()

        def work(first: int) -> None:
            for number in range(first, count, THREADS):
                found[one(number)] += 1

        threads = [threading.Thread(target=work, args=(first,), daemon=True) for first in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert found["forked 2"] == -(-count // 500)
        assert (found["raised"], found["refused"]) == (count // 10, count // 10)
        assert found.total() == count
        engine.forget()  # its thread is done with the last step, and the kept prefixes are gone
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        serve(200)
        gc.collect()
        gc.disable()
        before = serve(200)
        growth = serve(REQUESTS) - before
        jobs = sum(isinstance(item, Job) for item in gc.get_objects())
    finally:
        gc.enable()
        tracemalloc.stop()
        engine.close()
    assert jobs == 0
    assert abs(growth) < 2 << 20, "bytes stay with every request"
