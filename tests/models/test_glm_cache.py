"""The cached forward: any split of a sequence, any mix of rows, gives what one full forward gives."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import random_network

from mindformers_glm import runtime
from mindformers_glm.models.glm.cached import Cached

ROWS, SLOTS, LENGTH = 3, 48, 30


class Session:
    """Rows that grow at their own pace; `feed` gives each some tokens and returns logits of those tokens."""

    def __init__(self, model, *, dynamic: bool = False, rows: int = ROWS, slots: int = SLOTS):
        config, self.cell = model.config, Cached(model)
        shape = (config.num_layers, rows, config.num_kv_heads, slots, config.kv_channels)
        rng = np.random.default_rng(7)
        self.cache = [rng.normal(0, 3, shape).astype(np.float32) for _ in range(2)]  # unused slots hold rubbish
        self.past = np.zeros(rows, np.int32)
        if dynamic:
            ids = Tensor(shape=[rows, None], dtype=ms.int32)
            stores = [Tensor(shape=[*shape[:3], None, shape[4]], dtype=ms.float32)] * 2
            self.cell.set_inputs(ids, ids, Tensor(shape=[rows], dtype=ms.int32), *stores)

    def feed(self, parts: list[list[int]], *, last: bool = False, slots: int | None = None):
        width = max(map(len, parts))
        ids = np.zeros((len(parts), width), np.int32)
        for row, part in enumerate(parts):
            ids[row, : len(part)] = part
        positions = self.past[:, None] + np.arange(width, dtype=np.int32)
        more = [Tensor(np.array([len(part) - 1 for part in parts], np.int32))] if last else []
        stores = [Tensor(np.ascontiguousarray(store[..., :slots, :])) for store in self.cache]
        logits, *new = self.cell(Tensor(ids), Tensor(positions), Tensor(self.past), *stores, *more)
        for store, rows in zip(self.cache, new, strict=True):
            for row, part in enumerate(parts):
                start = self.past[row]
                store[:, row, :, start : start + len(part)] = rows.asnumpy()[:, row, :, : len(part)]
        self.past += np.array([len(part) for part in parts], np.int32)
        return logits.asnumpy()


def sequences(seed=3):
    return np.random.default_rng(seed).integers(0, 101, (ROWS, LENGTH)).astype(np.int32)


@pytest.fixture(scope="module")
def network():
    return random_network(seed=5)


@pytest.fixture(scope="module")
def full(network):
    """Logits of all sequences at once, in graph mode."""
    runtime.set_up({"mode": 0, "device_target": "CPU"})
    return network(Tensor(sequences())).asnumpy()


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow_where(lambda seed: seed == 1)
def test_random_splits_of_rows_at_different_places_equal_one_forward(network, full, seed):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rng, tokens, session = np.random.default_rng(seed), sequences(), Session(network)
    while session.past.max() < LENGTH:
        starts = session.past.tolist()
        width = int(rng.choice([1, 1, 3, 7, 12]))
        counts = [min(int(rng.integers(1, width + 1)), LENGTH - start) for start in starts]
        spans = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        logits = session.feed([tokens[row, span].tolist() for row, span in enumerate(spans)])
        for row, (span, count) in enumerate(zip(spans, counts, strict=True)):
            close(logits[row, :count], full[row, span])


def test_padded_prompts_then_single_tokens(network, full):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    tokens, prompts, session = sequences(), [5, 17, 11], Session(network)
    logits = session.feed([tokens[row, :n].tolist() for row, n in enumerate(prompts)], last=True)
    assert logits.shape == (ROWS, 101)
    for step in range(6):
        for row, n in enumerate(prompts):
            close(logits[row], full[row, n + step - 1])
        logits = session.feed([[tokens[row, n + step]] for row, n in enumerate(prompts)], last=True)


def test_one_graph_serves_all_lengths_and_cache_sizes(network, full):
    tokens, session = sequences(), Session(network, dynamic=True)
    for width, slots in ((9, 16), (1, 16), (4, 24), (1, 48), (14, 48)):
        start = session.past[0]
        logits = session.feed([row[start : start + width].tolist() for row in tokens], slots=slots)
        close(logits, full[:, start : start + width])
    assert len(session.cell.compile_cache) == 1


def test_the_method_compiles_and_gives_new_rows_only(network, full):
    stores = [Tensor(np.zeros((2, ROWS, 2, 8, 8), np.float32))] * 2
    positions = Tensor(np.tile(np.arange(4, dtype=np.int32), (ROWS, 1)))
    logits, keys, values = network.forward_cached(
        Tensor(sequences()[:, :4]), positions, Tensor(np.zeros(ROWS, np.int32)), *stores
    )
    close(logits.asnumpy(), full[:, :4])
    assert keys.shape == values.shape == (2, ROWS, 2, 4, 8)


def test_rows_do_not_see_each_other_nor_what_comes_later(network, full):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    tokens = sequences()
    alone = np.concatenate([network(Tensor(tokens[row : row + 1])).asnumpy() for row in range(ROWS)])
    np.testing.assert_allclose(alone, full, atol=1e-5, rtol=1e-5)
    longer = np.concatenate((tokens[:, :9], np.full((ROWS, 5), 77, np.int32)), 1)
    np.testing.assert_allclose(network(Tensor(longer)).asnumpy()[:, :9], full[:, :9], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"multi_query_attention": False}, {"multi_query_group_num": 1}, {"rmsnorm": False}, {"pre_seq_len": 3}]
)
def test_variants_keep_the_identity(changes):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network, tokens = random_network(**changes), sequences()
    full, session = network(Tensor(tokens[:, :12])).asnumpy(), Session(network)
    parts = [session.feed([row[span].tolist() for row in tokens]) for span in (slice(0, 7), slice(7, 8), slice(8, 12))]
    close(np.concatenate(parts, 1), full)
