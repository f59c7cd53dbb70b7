"""Ids and labels outside the vocabulary are named before a kernel sees them."""

import numpy as np
import pytest

from mindformers_glm.errors import DataError
from mindformers_glm.ops.token_range import require_token_range


def test_what_is_in_range_passes():
    require_token_range([[0, 9]], [[-100, 9]], 10)
    require_token_range(np.zeros((0, 4), int), None, 10)


@pytest.mark.parametrize(
    ("ids", "labels", "words"),
    [
        ([[1, 2], [3, -1]], None, "row 1, position 1: the token id -1 is not one of 0 to 9"),
        ([[1, 10]], [[1, 1]], "row 0, position 1: the token id 10"),
        ([[1, 2]], [[-100, -1]], "position 1: the label -1 is not one of 0 to 9, or -100"),
        ([[1, 2]], [[10, -100]], "position 0: the label 10"),
        ([[1, 2]], [[-101, -100]], "the label -101"),
    ],
)
def test_the_first_unknown_id_is_named(ids, labels, words):
    with pytest.raises(DataError, match=words):
        require_token_range(ids, labels, 10)


def test_lines_of_the_data_are_named():
    with pytest.raises(DataError, match="line 7 of the data, position 0: the label -5"):
        require_token_range([[1], [1]], [[1], [-5]], 10, rows=[3, 7])
