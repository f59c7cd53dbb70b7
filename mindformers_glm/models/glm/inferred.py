"""The network that the shapes of its weights allow, where no configuration lies beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import HEAD, TABLE

_LAYER = "transformer.encoder.layers.0."


def inferred_config(
    names: Collection[str], shape: Callable[[str], tuple[int, ...]], *, place: str, kv_channels: int = 128
) -> ChatGLM2Config:
    """A configuration for conversions that need no more than shapes; `names` are ours, `shape` gives that of each.

    The channels of one head are not in the shapes: they are `kv_channels`, or a common divisor where that cannot be.

    Raises:
        CheckpointError: not the weights of a GLM.
    """
    try:
        vocab, hidden = shape(TABLE)
        rows = shape(_LAYER + "self_attention.query_key_value.weight")[0]
        query = shape(_LAYER + "self_attention.dense.weight")[1]
        ffn = shape(_LAYER + "mlp.dense_4h_to_h.weight")[1]
    except KeyError as error:
        fault = f"{error.args[0]} is missing, so the network's shape is not known"
        raise CheckpointError(place, fault, "Give --config.") from error
    key = (rows - query) // 2
    channels = kv_channels if query % kv_channels == 0 == key % kv_channels else math.gcd(query, key)
    norms = _LAYER + "post_mlp_layernorm.weight" in names
    return ChatGLM2Config(
        num_layers=len({name.split(".layers.")[1].split(".")[0] for name in names if ".layers." in name}),
        padded_vocab_size=vocab,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        kv_channels=channels,
        num_attention_heads=query // channels,
        multi_query_group_num=key // channels,
        add_qkv_bias=_LAYER + "self_attention.query_key_value.bias" in names,
        post_self_attn_layernorm=norms,
        post_mlp_layernorm=norms,
        tie_word_embeddings=HEAD not in names,
    )
