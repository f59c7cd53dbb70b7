"""What every test shares: the folder of reference data, and a CPU context."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
from pathlib import Path

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # before NumPy comes: threads of all CPUs in each worker would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tiers  # noqa: E402

from mindformers_glm.log import logger  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
EARLY = [ROOT / "tests" / name for name in (".", "serving/http", "train", "tools", "export")]  # their groups are long
REQUIRED = "GLM_REQUIRE_ALL"  # set by .ci/run: what a test needs and does not find is a failure, not a skip
for _name in (
    "MINDFORMERS_GLM_LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_MESSAGES",
):  # messages are English, whoever runs the tests
    os.environ.pop(_name, None)
os.environ["LANG"] = "C.UTF-8"
os.environ["MINDFORMERS_GLM_DOWNLOAD"] = "0"  # no test reaches for the network; those of downloads have their own hub


def pytest_configure(config: pytest.Config) -> None:
    """Marks that are known without pytest-xdist too; Ctrl-C as in a terminal, which a shell's background lacks."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "xdist_group(name): tests of one group share a worker")
    tiers.register(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With two workers a file stays whole, for its fixtures; all that start several processes share one worker, and all
    that ask the same servers.

    Those come first, then the files of this folder, which run whole commands, the servers and trainings: what is long
    must not be begun last.
    """
    for item in items:
        tiers.sort_out(item)
        folder = item.path.parent.name
        name = "dist" if item.get_closest_marker("dist") else folder if folder == "http" else item.path.name
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: (not item.get_closest_marker("dist"), item.path.parent not in EARLY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> object:
    """What tests import is no garbage: MindSpore, which collects it before each compilation, need not look there.

    Its operators are launched one after the other: where they are queued, threads that wait for work without sleeping
    take the CPU of the other worker. Commands in children queue them, as users' do.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        if "mindspore" in sys.modules:
            sys.modules["mindspore"].runtime.launch_blocking()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """What a file leaves behind (caches, compiled graphs, reports) is no garbage either: see `pytest_collection`."""
    done = yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return done


@pytest.fixture(scope="module")
def no_collection():
    """For files that read the whole package: a syntax tree has no garbage, and half the time would go into looking."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def a_terminal():
    """SIGHUP acts as in a terminal, also where the tests are run under nohup, whose children would ignore it."""
    before = signal.getsignal(signal.SIGHUP)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: compressed ones differ from worker to worker by the time of day."""
    return argname if isinstance(val, bytes) and len(val) > 30 else None


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the checkout, or in $GLM_SHARED; the test is skipped where it is absent."""
    folder = Path(os.environ.get("GLM_SHARED") or ROOT.parent / "shared")
    if not (folder / "golden").is_dir():
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set and there is no reference data: {folder}")
        pytest.skip("reference data (../shared or $GLM_SHARED) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Outputs of the official models and of MindFormers."""
    return shared / "golden"


@pytest.fixture(scope="session")
def glm2_vocab(shared: Path) -> str:
    """The real ChatGLM2 sentencepiece file."""
    return str(shared / "data/tokenizer/chatglm2-6b/tokenizer.model")


@pytest.fixture(scope="session")
def glm3_vocab(shared: Path) -> str:
    """The real ChatGLM3 sentencepiece file."""
    return str(shared / "data/tokenizer/chatglm3-6b/tokenizer.model")


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Each test draws the numbers that it draws alone: networks with random weights are the same in every run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - MindSpore's initial values come from it
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].set_seed(0)


@pytest.fixture(autouse=True)
def log_of_one_test():
    """Commands run in this process, also by fixtures of a whole file, set the log up; each test starts without."""
    _log_without_handlers()
    yield
    _log_without_handlers()


def _log_without_handlers() -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
