"""A model to talk to, from a name, a folder or a YAML file: engine and tokenizer, with an adapter on request."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from typing import Any, NamedTuple

from mindspore import nn

from mindformers_glm.assembly.model import load_model
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import MindSporeEngine, engine_of
from mindformers_glm.generation.led import follow
from mindformers_glm.generation.network import MindSporeNetwork
from mindformers_glm.tokenizers.glm import GLMTokenizer


class Loaded(NamedTuple):
    """All that a conversation needs."""

    engine: Engine
    tokenizer: GLMTokenizer
    network: nn.Cell | None = None


def load(
    model: str,
    *,
    seq_length: int | None = None,
    quantization_bit: int | None = None,
    engine: Mapping[str, Any] | None = None,
    **options: Any,
) -> Loaded:
    """Engine and tokenizer of whatever `load_model` takes, with its options.

    `seq_length` and `quantization_bit` None are the model's own; `engine` are options of MindSporeEngine. With
    `tp_size` above 1 the engine is that of rank 0; the other ranks work here until it ends, and end.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    given = {"seq_length": seq_length, "quantization_bit": quantization_bit}
    changes = {name: value for name, value in given.items() if value is not None}
    loaded = load_model(model, **options, **changes)
    axis = loaded.network.led_over
    if axis is not None and axis.rank > 0:
        follow(MindSporeNetwork(loaded.network), axis)
        raise SystemExit(0)
    made = MindSporeEngine(loaded.network, **engine) if engine else engine_of(loaded.network)
    if axis is not None:
        atexit.register(_let_go, made)
    return Loaded(made, *reversed(loaded))


def _let_go(engine: Engine) -> None:
    """Ends the engine, and then the ranks that follow it."""
    engine.close()
    engine.network.end()
