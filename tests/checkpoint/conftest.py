"""A folder of ours."""

import pytest
from conversions import TINY, tiny_arrays

from mindformers_glm.checkpoint.convert import save_directory


@pytest.fixture
def ours(tmp_path):
    return save_directory(tmp_path / "tiny", tiny_arrays(), TINY)
