"""A model to talk to, from a name, a folder or a YAML file: engine and tokenizer, with an adapter on request."""

from __future__ import annotations

from typing import Any, NamedTuple

from mindformers_glm.assembly.model import load_model
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import engine_of
from mindformers_glm.tokenizers.glm import GLMTokenizer


class Loaded(NamedTuple):
    """All that a conversation needs."""

    engine: Engine
    tokenizer: GLMTokenizer


def load(model: str, *, seq_length: int | None = None, **options: Any) -> Loaded:
    """Engine and tokenizer of whatever `load_model` takes, with its options; `seq_length` None is the model's own.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    changes = {} if seq_length is None else {"seq_length": seq_length}
    loaded = load_model(model, **options, **changes)
    return Loaded(engine_of(loaded.network), loaded.tokenizer)
