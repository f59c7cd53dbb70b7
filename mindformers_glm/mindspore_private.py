"""Every name of MindSpore 2.10 that is private or may change with any release; nothing else imports such a name.

A new MindSpore is tried by running tests/test_mindspore_private.py: it asks for each name, and fails where another file
goes around this one. Names are imported when they are asked for, as `from mindformers_glm.mindspore_private import X`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# name here -> (module, name there; None for the module itself)
NAMES: dict[str, tuple[str, str | None]] = {
    # which Ascend this is: no public function tells
    "MSContext": ("mindspore._c_expression", "MSContext"),
    # True while a graph is compiled for shapes that are not known yet; public operators raise instead
    "is_sequence_value_unknown": ("mindspore.ops.functional", "is_sequence_value_unknown"),
    # parameters without values, for a network whose weights are loaded
    "no_init_parameters": ("mindspore.nn.utils", "no_init_parameters"),
    # the NumPy type that Tensor.asnumpy gives
    "bfloat16": ("mindspore.common.np_dtype", "bfloat16"),
    # protobuf of MindIR files and of strategy files
    "mind_ir_pb2": ("mindspore.train.mind_ir_pb2", None),
    "ParallelStrategyMap": ("mindspore.train.node_strategy_pb2", "ParallelStrategyMap"),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = NAMES[name]
    found = import_module(module)
    return found if attribute is None else getattr(found, attribute)


def missing() -> list[str]:
    """The names that this MindSpore has not where NAMES says, each with that place."""
    lost = []
    for name, (module, attribute) in NAMES.items():
        try:
            __getattr__(name)
        except (ImportError, AttributeError):
            lost.append(f"{name}: {module}{f'.{attribute}' if attribute else ''}")
    return lost


def compiled_graphs(cell: Any) -> int:
    """How many graphs MindSpore keeps for a Cell: one for each set of input shapes."""
    return len(cell.compile_cache)


def forget_graphs(cell: Any) -> None:
    """Makes a Cell compile again: its layers have been replaced."""
    cell.compile_cache.clear()
