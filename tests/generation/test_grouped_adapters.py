"""Adapters beside each other in one batch of the kernels: every row is what its adapter alone makes of it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from test_kernel_network import ADAPTERS, differ, network

from mindformers_glm.adapters.lora import DELTA
from mindformers_glm.assembly.adapted import over
from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.generate import MindSporeEngine, attach
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.ops.kernels import library
from mindformers_glm.quantization import quantize_model

pytestmark = pytest.mark.skipif(library.library() is None, reason="no kernels are built for this processor")
KINDS = [
    {"lora_rank": 4, "target_modules": ADAPTERS},
    {"lora_rank": 1, "target_modules": "query_key_value"},
    {"lora_rank": 7, "target_modules": ADAPTERS + "|output_layer"},
    {"lora_rank": 2, "target_modules": "dense_4h_to_h"},
    {"lora_rank": 3, "target_modules": "dense"},
]


def base(bits: int = 0):
    model = network(ffn_hidden_size=160)
    if bits:
        quantize_model(model, bits=bits)
    return model


def adapter(model, seed: int, **changes):
    """A network with a random adapter over the weights of another."""
    pet = {"pet_type": "lora", "lora_alpha": 4, **KINDS[seed % len(KINDS)], **changes}
    made, random = over(model, pet), np.random.default_rng(seed)
    for parameter in made.get_parameters():
        if DELTA in parameter.name:
            shift = 1.5 if parameter.name.endswith("_m") else 0
            value = random.standard_normal(parameter.shape).astype(np.float32) * 0.2 + shift
            parameter.set_data(ms.Tensor(value).astype(parameter.dtype))
    return made


def rows(network, adapters, seed: int = 1):
    """Logits of a prompt and of two tokens after it, for a row of each adapter, with different lengths."""
    random, count = np.random.default_rng(seed), len(adapters)
    cache, found = network.new_cache(count), []
    cache.adapters[:] = adapters
    for widest in (40, 1, 1):
        counts = np.asarray([1 + (widest - 1) * (row + 1) // count for row in range(count)], np.int32)
        tokens = random.integers(0, 301, (count, widest)).astype(np.int32)
        wanted = np.asarray([row * widest + counts[row] - 1 for row in range(count)], np.int32)
        found.append(network.forward(tokens, counts, cache, wanted))
    return found


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_each_row_is_what_a_network_of_its_own_makes_of_it(bits):
    model = base(bits)
    adapted = [adapter(model, seed) for seed in range(6)]
    together = KernelNetwork(model)
    numbers = [together.add_adapter(one) for one in adapted]
    order = [numbers[2], 0, numbers[0], numbers[2], numbers[5], numbers[1], numbers[0], numbers[4], 0, numbers[3]]
    found = rows(together, order)
    for number, one in [(0, model), *zip(numbers, adapted, strict=True)]:
        alone = rows(KernelNetwork(one), [0] * len(order))
        mine = [place for place, owner in enumerate(order) if owner == number]
        bound = 0.05 if bits else 1e-4  # the last bit of an activation may round to another of 8 bits
        assert differ([step[mine] for step in found], [step[mine] for step in alone]) < bound
    assert differ(found[:1], rows(KernelNetwork(model), [0] * len(order))[:1]) > 0.1


def test_an_adapter_with_magnitudes_is_beside_others():
    model = base()
    dora, plain = adapter(model, 0, use_dora=True), adapter(model, 1)
    together = KernelNetwork(model)
    numbers = [together.add_adapter(dora), together.add_adapter(plain), 0]
    found = rows(together, numbers)
    for place, one in enumerate((dora, plain, model)):
        alone = rows(KernelNetwork(one), [0] * 3)
        assert differ([step[place] for step in found], [step[place] for step in alone]) < 2e-4


def test_a_number_is_never_used_again_and_a_removed_adapter_does_nothing():
    model = base()
    together = KernelNetwork(model)
    first = together.add_adapter(adapter(model, 0))
    plain, adapted = rows(together, [0]), rows(together, [first])
    together.remove_adapter(first)
    assert together.add_adapter(adapter(model, 2)) == first + 1
    assert differ(rows(together, [first]), plain) == 0 and differ(plain, adapted) > 0.1


def test_requests_of_all_adapters_share_batches_and_keep_their_prefixes_apart():
    model = base(8)
    engine = MindSporeEngine(model)
    adapted = [adapter(model, seed) for seed in range(3)]
    numbers = [0, *(attach(engine, one) for one in adapted)]
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 301, 70).tolist() for _ in range(3)]
    config = GenerationConfig(max_new_tokens=12)
    alone = [
        [MindSporeEngine(one).submit(prompt, config).results()[0].ids for prompt in prompts]
        for one in (model, *adapted)
    ]
    steps, forward = [], engine.network.forward
    engine.network.forward = lambda tokens, counts, cache, wanted: (
        steps.append(set(cache.adapters[counts > 0].tolist())),
        forward(tokens, counts, cache, wanted),
    )[1]
    for _ in range(2):  # the second time every prompt is known
        asked = [(number, prompt) for prompt in prompts for number in numbers]
        tickets = [engine.submit(prompt, config, adapter=number, reuse_prefix=True) for number, prompt in asked]
        found = [ticket.results()[0].ids for ticket in tickets]
        assert found == [alone[place][row] for row in range(3) for place in range(4)]
    assert max(map(len, steps)) == 4
    scores = [engine.score(prompts[0], [prompts[1]], adapter=number)[0].logprobs for number in numbers]
    for score, one in zip(scores, (model, *adapted), strict=True):
        np.testing.assert_allclose(score, MindSporeEngine(one).score(prompts[0], [prompts[1]])[0].logprobs, atol=1e-3)


def test_an_adapter_that_goes_is_there_until_its_answers_are_over():
    model = base()
    engine = MindSporeEngine(model)
    number = attach(engine, adapter(model, 0))
    prompt, config = [5, 9, 200], GenerationConfig(max_new_tokens=200)
    whole = engine.submit(prompt, config, adapter=number).results()[0].ids
    ticket = engine.submit(prompt, config, adapter=number)
    next(iter(ticket))
    assert number in engine.network.adapter_numbers
    engine.remove_adapter(number)
    with pytest.raises(GenerationError, match="adapter"):
        engine.submit(prompt, config, adapter=number)
    with pytest.raises(GenerationError, match="adapter"):
        engine.score(prompt, [[1]], adapter=number)
    assert ticket.results()[0].ids == whole != engine.submit(prompt, config).results()[0].ids
    assert number not in engine.network.adapter_numbers


def test_a_prefix_needs_an_engine_of_its_own():
    model = base()
    assert attach(MindSporeEngine(model), network(ffn_hidden_size=160, pet_config={"pet_type": "ptuning2"})) is None
