"""A model to talk to, from a name, a folder or a YAML file: engine and tokenizer, with an adapter on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.assembly.engine import Loaded, load_engine
from mindformers_glm.assembly.request import ModelRequest

__all__ = ["Loaded", "load"]


def load(
    model: str,
    *,
    seq_length: int | None = None,
    quantization_bit: int | None = None,
    engine: Mapping[str, Any] | None = None,
    **asked: Any,
) -> Loaded:
    """Engine and tokenizer of a model; `asked` are the other fields of ModelRequest.

    `seq_length` and `quantization_bit` None are the model's own; `engine` are options of the engine.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    given: dict[str, Any] = {"seq_length": seq_length, "quantization_bit": quantization_bit}
    changes = {name: value for name, value in given.items() if value is not None}
    return load_engine(ModelRequest(model, changes=changes, **asked), options=engine)
