"""The engine of a real model under faulty callers."""

from __future__ import annotations

import os
import threading

import pytest

from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.generate import engine_of

pytestmark = pytest.mark.slow
THREADS = 64
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
