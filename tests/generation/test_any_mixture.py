"""Integer weights: whatever runs beside a request, it gets the ids and log-probabilities it gets alone, bit for bit."""

from __future__ import annotations

import random

import pytest
from kernel_engine import random_weights

from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.lookup import StepCost
from mindformers_glm.ops.kernels import library

pytestmark = pytest.mark.skipif(library.library() is None, reason="the kernels are not built")
COMMON = [(place * 37) % 5 for place in range(200)]  # many prompts begin so


@pytest.fixture(scope="module")
def weights():
    """Five ids: rows repeat themselves all the time."""
    return random_weights(vocabulary=5)


def request(draw: random.Random) -> dict:
    """A prompt and its settings."""
    size, shared = draw.choice([1, 3, 50, 64, 130, 200]), draw.choice([0, 64, 100, 200])
    prompt = COMMON[:shared][:size]
    prompt += [draw.randrange(5) for _ in range(size - len(prompt))]
    settings = {"max_new_tokens": draw.choice([1, 5, 40, 120])}
    kind = draw.choice(["greedy", "penalised", "drawn", "several", "beams"])
    if kind == "beams":
        settings["num_beams"] = 3
    else:
        settings["output_logprobs"] = True
    if kind == "penalised":
        settings |= {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "logit_bias": {2: 0.5}}
    if kind in ("drawn", "several"):
        settings |= {"do_sample": True, "top_k": draw.choice([0, 3]), "temperature": 1.5, "seed": draw.randrange(1000)}
    if kind == "several":
        settings["num_return_sequences"] = 3
    return {
        "prompt": prompt,
        "settings": settings,
        "reuse_prefix": draw.random() < 0.5,
        "priority": draw.randrange(2),
    }


def answers(weights, requests: list[dict], options: dict, *, guesses: int) -> tuple[list, tuple[int, int]]:
    engine = held_engine(weights, options)
    tickets = []
    for one in requests:
        config = GenerationConfig(**one["settings"], prompt_lookup_num_tokens=guesses)
        manner = {"reuse_prefix": one["reuse_prefix"], "priority": one["priority"]}
        tickets.append(engine.submit(one["prompt"], config, **manner))
    found = [[(result.ids, result.logprobs) for result in ticket.results()] for ticket in tickets]
    figures = engine.figures[2:4]
    engine.forget()
    assert engine.network.blocks.used_blocks == 0
    engine.close()
    return found, figures


@pytest.mark.parametrize("cache_dtype", ["float32", "float16", "int8"])
def test_any_mixture_chunking_and_guesses(weights, cache_dtype, monkeypatch):
    monkeypatch.setattr(StepCost, "counts", lambda self, rows, found, most: [size for _, size in found])  # all of them
    draw, guessed, right = random.Random(cache_dtype), 0, 0
    for _ in range(4):
        requests = [request(draw) for _ in range(7)]
        kept = {"cache_dtype": cache_dtype}
        alone = [answers(weights, [one], {**kept, "chunk": LONG}, guesses=0)[0][0] for one in requests]
        options = {
            "max_num_seqs": draw.choice([3, 5, 16]),
            "chunk": draw.choice([7, 64, 256]),
            "max_num_batched_tokens": draw.choice([None, 16, 33, 128]),
            "cache_tokens": draw.choice([None, 64 * 20]),
        }
        together, figures = answers(weights, requests, {**kept, **options}, guesses=draw.choice([4, 10]))
        assert together == alone
        guessed, right = guessed + figures[0], right + figures[1]
    assert guessed > right > 100


LONG = 512
