"""Errors for people: one line each, and whole after a way between processes."""

from __future__ import annotations

import pickle

import pytest

from mindformers_glm.errors import CheckpointError, ConfigError, ConfigErrors, DataError, DeviceError

ERRORS = [
    ConfigError("a.b", 5, "Use 4."),
    ConfigErrors("a.yaml", [ConfigError("a", 1, "Use 2."), ConfigError("b", 1, "Use 3.")]),
    DataError("a.jsonl:3", "no text", "Write some"),
    CheckpointError("a.ckpt", "damaged", "Copy it again"),
    DeviceError("no such device"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_another_process_says_the_same(error):
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is type(error) and str(came) == str(error)
    assert {k: v for k, v in vars(came).items() if k != "errors"} == {
        k: v for k, v in vars(error).items() if k != "errors"
    }
    assert [str(one) for one in getattr(came, "errors", [])] == [str(one) for one in getattr(error, "errors", [])]
