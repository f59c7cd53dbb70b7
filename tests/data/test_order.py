"""The order of rows: the same for the same seed, disjoint over ranks, resumable anywhere."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_glm.data.order import NOTHING, Order
from mindformers_glm.data.prefetch import ahead
from mindformers_glm.errors import ConfigError, DataError


def epoch_of(order, epoch=0):
    return [order.batch(epoch, index) for index in range(len(order))]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 60), batch=st.integers(1, 9), ranks=st.integers(1, 5), drop=st.booleans(),
    repeat=st.integers(1, 3), shuffle=st.booleans(), epoch=st.integers(0, 3),
)  # fmt: skip
def test_ranks_share_the_rows(rows, batch, ranks, drop, repeat, shuffle, epoch):
    common = {"num_rows": rows, "batch_size": batch, "seed": 7, "shuffle": shuffle, "drop_remainder": drop}
    orders = [Order(**common, repeat=repeat, rank=rank, rank_size=ranks) for rank in range(ranks)]
    epochs = [epoch_of(order, epoch) for order in orders]
    assert len({tuple(map(len, batches)) for batches in epochs}) == 1
    for turn in range(repeat):
        size = orders[0].batches_per_pass
        seen = np.concatenate([[], *(b for e in epochs for b in e[turn * size : (turn + 1) * size])])
        real = seen[seen != NOTHING]
        assert len(set(real)) == len(real)
        if drop:
            assert all(len(b) == batch for e in epochs for b in e)
            assert rows - len(real) < batch * ranks + ranks
        else:
            assert sorted(real) == list(range(rows))
            assert len(seen) - len(real) < ranks


def test_order_is_a_function_of_seed_and_epoch():
    order = Order(num_rows=50, batch_size=4, seed=3)
    again = Order(num_rows=50, batch_size=4, seed=3)
    other = Order(num_rows=50, batch_size=4, seed=4)
    same = [np.array_equal(a, b) for a, b in zip(epoch_of(order, 2), epoch_of(again, 2), strict=True)]
    assert all(same)
    assert not np.array_equal(epoch_of(order, 2), epoch_of(order, 3))
    assert not np.array_equal(epoch_of(order, 2), epoch_of(other, 2))
    straight = Order(num_rows=10, batch_size=4, shuffle=False, drop_remainder=False)
    assert [b.tolist() for b in epoch_of(straight)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_repeat_shuffles_each_pass_anew_and_equals_more_epochs():
    twice = Order(num_rows=12, batch_size=4, seed=3, repeat=2)
    once = Order(num_rows=12, batch_size=4, seed=3)
    assert np.array_equal(epoch_of(twice, 1), epoch_of(once, 2) + epoch_of(once, 3))


def test_wrong_numbers_are_named():
    for given_, words in (({"batch_size": 0}, "batch_size"), ({"repeat": 0}, "repeat"), ({"rank": 2}, "shard_id")):
        with pytest.raises(ConfigError, match=words):
            Order(**{"num_rows": 5, "batch_size": 2, **given_})
    with pytest.raises(DataError, match="5 rows over 2 ranks fill no batch of 4.*drop_remainder"):
        Order(num_rows=5, batch_size=4, rank_size=2).require_batches("file")


def test_work_ahead_keeps_order_and_raises_in_place():
    assert list(ahead(lambda n: n * n, range(5), depth=2)) == [0, 1, 4, 9, 16]

    def fails(n):
        if n == 2:
            raise KeyError(n)
        return n

    source = ahead(fails, range(5))
    assert [next(source), next(source)] == [0, 1]
    with pytest.raises(KeyError):
        next(source)


def test_work_ahead_stops_when_dropped():
    import threading

    made = []
    source = ahead(lambda n: made.append(n) or n, range(10**6), depth=3)
    assert list(itertools.islice(source, 2)) == [0, 1]
    source.close()
    assert len(made) < 10
    assert not [t for t in threading.enumerate() if t.name == "data"]
