"""The rank from the launcher's environment; no device is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mindformers_glm import runtime
from mindformers_glm.errors import ConfigError, DeviceError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK_ID", "RANK_SIZE", "MS_WORKER_NUM", "DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_is_alone_without_a_launcher():
    assert (runtime.rank(), runtime.rank_size(), runtime.started_processes()) == (0, 1, None)


@pytest.mark.parametrize("name", ["RANK_SIZE", "RANK_ID", "MS_WORKER_NUM"])
@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_variable_is_none(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    assert (runtime.rank(), runtime.rank_size()) == (0, 1)


@pytest.mark.parametrize("name", ["RANK_SIZE", "RANK_ID", "MS_WORKER_NUM"])
@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "²", "9" * 30])
def test_what_is_no_number_names_the_variable(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"{name}: got"):
        runtime.rank()
        runtime.rank_size()


def test_no_job_has_no_process(monkeypatch):
    monkeypatch.setenv("RANK_SIZE", "0")
    with pytest.raises(ConfigError, match="1 or more"):
        runtime.rank_size()


def test_a_rank_beyond_the_job_is_refused(monkeypatch):
    monkeypatch.setenv("RANK_SIZE", "2")
    monkeypatch.setenv("RANK_ID", "2")
    with pytest.raises(ConfigError, match="from 0 to 1"):
        runtime.rank()


def test_rank_size_wins_over_the_number_of_workers(monkeypatch):
    monkeypatch.setenv("MS_WORKER_NUM", "4")
    assert runtime.rank_size() == 4
    monkeypatch.setenv("RANK_SIZE", "2")
    assert runtime.rank_size() == 2


def test_a_configuration_is_read_without_mindspore():
    code = "import sys; sys.modules['mindspore'] = None; import mindformers_glm.config, mindformers_glm.runtime"
    blocked = f"import importlib.util as u; u.find_spec = lambda name, *_: None; {code}"
    subprocess.run([sys.executable, "-c", blocked], check=True, timeout=120)


def test_the_scheduler_names_a_rank_that_is_lost(monkeypatch):
    said = (
        "The total number of timed out node is 1. Timed out node list is: [const vector]{1}, worker 1 is the first one"
    )

    def lost():
        raise RuntimeError(f"{said} timed out, please check its log.")

    monkeypatch.setattr("mindspore.communication.init", lost)
    monkeypatch.setattr("mindspore.set_device", lambda target: None)
    with pytest.raises(DeviceError, match="^rank 1 does not answer any more. [^\n]*$"):
        runtime.serve_as_scheduler()
