"""Which tests are for every run and which for `make slow`, where the parameters of a test decide."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

PRODUCTS = pytest.StashKey[dict[str, list[bool]]]()  # test -> for each of its parameters: is it slow?


def register(config: pytest.Config) -> None:
    """Adds the mark `slow_where(condition)`: slow for those parameters, asked for by name, that meet the condition."""
    config.addinivalue_line("markers", "slow_where(condition): slow for the parameters for which the condition holds")
    config.stash[PRODUCTS] = {}


def sort_out(item: pytest.Item) -> None:
    """Marks a test as slow where a condition holds for its parameters, those of its fixtures among them."""
    conditions = [mark.args[0] for mark in item.iter_markers("slow_where")]
    if conditions:
        is_slow = any(_holds(condition, item) for condition in conditions)
        item.config.stash[PRODUCTS].setdefault(item.nodeid.partition("[")[0], []).append(is_slow)
        if is_slow:
            item.add_marker(pytest.mark.slow)


def _holds(condition: Callable[..., bool], item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return bool(condition(*(parameters[name] for name in inspect.signature(condition).parameters)))
