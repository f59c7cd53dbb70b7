"""Operators of a user's own: where the library cannot lie, and what it cannot be made of."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels.plugin import compiled

SOURCE = '#include "operators.h"\nGLM_OPERATOR(Same) { given.floats(1)[0] = given.floats(0)[0]; }\n'


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "own.cpp"
    file.write_text(SOURCE)
    return file


def test_a_folder_that_cannot_be_written_is_one_line(source, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written .*name another `folder`") as caught:
        compiled(source, tmp_path / "taken" / "below")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("**/*.so"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.cpp"):
        compiled(tmp_path / "absent.cpp")
