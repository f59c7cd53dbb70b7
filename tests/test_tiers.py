"""What the mark slow_where does, and that every test that carries it keeps a part in each run."""

from __future__ import annotations

import pytest
from tiers import PRODUCTS


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.slow_where(lambda number: number == 2)
def test_a_condition_on_a_parameter_marks_the_test_as_slow(request, number):
    assert (request.node.get_closest_marker("slow") is not None) == (number == 2)


def test_every_product_has_a_part_in_every_run_and_a_part_in_the_slow_one(request):
    """Of those that were collected with this test; of all of them in a run of everything."""
    products = request.config.stash[PRODUCTS]
    assert [name for name, slow in products.items() if all(slow) or not any(slow)] == []
