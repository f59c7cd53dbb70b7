"""ChatGLM2 and ChatGLM3 for causal language modelling. Shapes: see layers.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindformers_glm import runtime
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.layers import INIT_SIGMA, Block, Linear, Norm
from mindformers_glm.ops.attention import MASKED, causal_mask
from mindformers_glm.ops.cross_entropy import cross_entropy
from mindformers_glm.ops.rotary import pair_turn, rotary_table
from mindformers_glm.registry import CONFIGS, MODELS, service


class Embedding(nn.Cell):
    """The table of token vectors, in `embedding_type`."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        shape, kind = (config.padded_vocab_size, config.hidden_size), getattr(ms, config.embedding_type)
        self.embedding_table = Parameter(initializer(Normal(INIT_SIGMA), shape, kind), name="embedding_table")
        self.dtype = getattr(ms, config.stream_dtype)

    def construct(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> rows (N, D) in the type of the stream."""
        return ops.cast(ops.gather(self.embedding_table, input_ids.reshape(-1), 0), self.dtype)


class Encoder(nn.Cell):
    """The layers and the final norm."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        turn = Tensor(pair_turn(config.kv_channels))
        self.layers = nn.CellList([Block(config, turn) for _ in range(config.num_layers)])
        self.final_layernorm = Norm(config) if config.post_layer_norm else None

    def construct(self, x: Tensor, place: tuple) -> Tensor:
        """Rows (N, D) -> normed rows (N, D)."""
        for layer in self.layers:
            x, _, _ = layer(x, place)
        return self.norm(x)

    def norm(self, x: Tensor) -> Tensor:
        """The final norm where the network has one."""
        return x if self.final_layernorm is None else self.final_layernorm(x)


class ChatGLM2Model(nn.Cell):
    """Embedding, layers, and the output layer, which the caller applies to the rows it needs."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        self.embedding = Embedding(config)
        self.encoder = Encoder(config)
        self.output_layer = Linear(config.hidden_size, config.padded_vocab_size, bias=False, config=config)
        self.length, self.groups = config.seq_length, config.num_attention_heads // config.num_kv_heads
        self.table = Tensor(
            rotary_table(
                length=config.seq_length,
                channels=config.kv_channels,
                ratio=config.rope_ratio,
                method=config.rope_method,
            )
        )
        self.slots = Tensor(np.arange(config.seq_length, dtype=np.int32))
        self.group = Tensor(np.zeros((1, 1, self.groups), np.int32))

    def construct(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> normed rows (N, D)."""
        return self.encoder(self.embedding(input_ids), self.place(input_ids))

    def place(self, input_ids: Tensor) -> tuple:
        """Where the tokens of whole sequences stand: row b holds positions 0 to T - 1."""
        batch, tokens = input_ids.shape
        if tokens > self.length:
            raise ValueError(f"{tokens} tokens and the rotary table ends at seq_length {self.length}")
        positions = self.slots[:tokens].reshape(1, -1)
        cos, sin, mask, _ = self.turned(positions, batch)
        if batch > 1:
            cos, sin = ops.tile(cos, (batch, 1, 1)), ops.tile(sin, (batch, 1, 1))
        return cos, sin, mask, batch

    def turned(self, positions: Tensor, batch: int) -> tuple:
        """The place of tokens at `positions` (B, T)."""
        rows = (positions.expand_dims(-1) + self.group).reshape(positions.shape[0], 1, -1, 1)
        mask = causal_mask(rows, positions.reshape(positions.shape[0], 1, 1, -1))
        angles = ops.gather(self.table, positions.reshape(-1), 0)
        return angles[:, :1], angles[:, 1:], mask, batch


class Cached(nn.Cell):
    """The network over a cache that is an argument: `ChatGLM2ForConditionalGeneration.forward_cached` as a Cell.

    One graph serves any length once `set_inputs` has declared the dimensions that vary.
    """

    def __init__(self, transformer: ChatGLM2Model):
        super().__init__(auto_prefix=False)
        self.transformer = transformer
        self.slots = transformer.slots

    def construct(
        self,
        input_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        last: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `ChatGLM2ForConditionalGeneration.forward_cached`."""
        model, batch = self.transformer, input_ids.shape[0]
        x, place = model.embedding(input_ids), model.turned(positions, batch)
        hidden = self.slots[: key_cache.shape[3]].reshape(1, 1, 1, -1) >= past_length.reshape(-1, 1, 1, 1)
        past_mask = ops.cast(hidden, ms.float32) * MASKED
        keys, values = (), ()
        for i, layer in enumerate(model.encoder.layers):
            x, key, value = layer(x, place, (key_cache[i], value_cache[i], past_mask))
            keys += (key.expand_dims(0),)
            values += (value.expand_dims(0),)
        if last is not None:
            tokens = input_ids.shape[1]
            x = ops.gather(x, ops.arange(batch).astype(ms.int32) * tokens + last, 0)
        logits = ops.cast(model.output_layer(model.encoder.norm(x)), ms.float32)
        if last is None:
            logits = logits.reshape(batch, -1, logits.shape[-1])
        return logits, ops.concat(keys), ops.concat(values)


class Stream(nn.Cell):
    """The residual stream at every depth, as a Cell: `ChatGLM2ForConditionalGeneration.hidden_states`."""

    def __init__(self, transformer: ChatGLM2Model):
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """Token ids (B, T) -> L + 1 times (B, T, D)."""
        model, (batch, tokens) = self.transformer, input_ids.shape
        x, place = model.embedding(input_ids), model.place(input_ids)
        states = (x.reshape(batch, tokens, -1),)
        for layer in model.encoder.layers:
            x, _, _ = layer(x, place)
            states += (x.reshape(batch, tokens, -1),)
        return states


@MODELS.register()
class ChatGLM2ForConditionalGeneration(nn.Cell):
    """The network with its loss; generation is found by name, so that the network knows none of it."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        check_device(config)
        self.config = config
        self.transformer = ChatGLM2Model(config)
        object.__setattr__(self, "_cached", None)

    def construct(self, input_ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of token ids (B, T), or with labels (B, T) the loss: both float32.

        Labels are shifted by the dataset already; -100 is not learned.
        """
        logits = self.transformer.output_layer(self.transformer(input_ids))
        if labels is None:
            batch, tokens = input_ids.shape
            return ops.cast(logits, ms.float32).reshape(batch, tokens, -1)
        return cross_entropy(logits, labels.reshape(-1))

    def forward_cached(
        self,
        input_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        last: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of new tokens after a cached past, and the keys and values to append to the cache.

        input_ids (B, T); positions (B, T) int32, rising along T also over padding on the right; past_length (B,)
        int32: slots of the cache in use; key_cache, value_cache (L, B, K, S, E). Result: logits (B, T, V) float32, or
        (B, V) at the row `last` (B,) of each sequence; new keys and new values (L, B, K, T, E).
        """
        if self._cached is None:
            object.__setattr__(self, "_cached", Cached(self.transformer))
        return self._cached(input_ids, positions, past_length, key_cache, value_cache, last)

    def hidden_states(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """The stream (B, T, D) after the embedding and after each layer, before the final norm."""
        return Stream(self.transformer)(input_ids)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """New tokens after each prompt; see generation."""
        return service("generate")(self, *args, **kwargs)

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        """The reply to a message, and the history with it; see generation."""
        return service("chat")(self, *args, **kwargs)

    def stream_chat(self, *args: Any, **kwargs: Any) -> Any:
        """The reply so far, again and again until it is whole; see generation."""
        return service("stream_chat")(self, *args, **kwargs)


def check_device(config: ChatGLM2Config) -> None:
    """Raises ConfigError when the device in use cannot compute in the types of `config`."""
    if runtime.device_target() == "CPU" and config.compute_dtype == "bfloat16":
        raise ConfigError("model_config.compute_dtype", "bfloat16", "MindSpore has no bfloat16 MatMul on CPU: float32.")


def build_model(spec: Mapping[str, Any] | ChatGLM2Config, *, key: str = "model") -> nn.Cell:
    """The network of a YAML `model` section (`model_config` and `arch`) or of a configuration.

    Raises:
        ConfigError: a key or value of the section is wrong, or the device cannot run it.
    """
    if isinstance(spec, ChatGLM2Config):
        return ChatGLM2ForConditionalGeneration(spec)
    config = CONFIGS.build({"type": "ChatGLM2Config", **spec["model_config"]}, f"{key}.model_config")
    arch = spec.get("arch") or {"type": "ChatGLM2ForConditionalGeneration"}
    return MODELS.get(arch.get("type"), f"{key}.arch.type")(config)
