"""What the rest of the package asks of a network: its configuration, and its parts by what they do. No MindSpore here.

Nothing outside models/ knows the class of a configuration or the name of a layer; it asks here, or the family
(family.py, naming.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from mindformers_glm.models.glm.config import ChatGLM2Config, RecomputeConfig

__all__ = ["BlockParts", "NetworkConfig", "NetworkParts", "RecomputeConfig"]

NetworkConfig: TypeAlias = ChatGLM2Config  # the configuration of a network; every family here has this class


class BlockParts(NamedTuple):
    """The Cells of one layer.

    `qkv` gives query, key and value joined, `out` follows attention; `gate_up` and `down` surround the MLP's
    activation. `after_attention` and `after_mlp` norm what is added to the hidden states; None where nothing does.
    """

    attention_norm: Any
    attention: Any
    qkv: Any
    out: Any
    after_attention: Any | None
    mlp_norm: Any
    mlp: Any
    gate_up: Any
    down: Any
    after_mlp: Any | None


class NetworkParts(NamedTuple):
    """The Cells of a network. `table` is the Parameter of the token embedding (V, D); `rotary` the table (S, 2, E)."""

    table: Any
    rotary: Any
    blocks: tuple[BlockParts, ...]
    final_norm: Any | None
    head: Any
