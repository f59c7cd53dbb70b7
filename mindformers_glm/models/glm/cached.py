"""The network over a cache that is an argument, and with the hidden states of every layer. Shapes: see layers.py."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm.ops.attention import MASKED


class Cached(nn.Cell):
    """The network over a cache that is an argument: `forward_cached` as a Cell, to compile and to export.

    One graph serves every length once `set_inputs` has declared the dimensions that vary.
    """

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.transformer, self.prefix_encoder = model.transformer, model.prefix_encoder
        self.slots = model.transformer.slots

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
        x, (cos, sin, mask) = model.embedding(input_ids), model.turned(positions)
        hidden = self.slots[: key_cache.shape[3]].reshape(1, 1, 1, -1) >= past_length.reshape(-1, 1, 1, 1)
        past_mask = ops.cast(hidden, ms.float32) * MASKED
        prefix = None if self.prefix_encoder is None else self.prefix_encoder(batch)
        keys: tuple[Tensor, ...] = ()
        values: tuple[Tensor, ...] = ()
        for i, layer in enumerate(model.encoder.layers):
            past: tuple = ((key_cache[i], value_cache[i], past_mask),)
            if prefix is not None:
                past = ((prefix[i, 0], prefix[i, 1], None), *past)
            x, key, value = layer.cached(x, cos, sin, mask, batch, past)
            keys += (key.expand_dims(0),)
            values += (value.expand_dims(0),)
        if last is not None:
            x = ops.gather(x, ops.arange(batch).astype(ms.int32) * input_ids.shape[1] + last, 0)
        logits = ops.cast(model.output_layer(model.encoder.norm(x)), ms.float32)
        if last is None:
            logits = logits.reshape(batch, -1, logits.shape[-1])
        return logits, ops.concat(keys), ops.concat(values)


class HiddenStates(nn.Cell):
    """The hidden states at every depth: `hidden_states` as a Cell."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.transformer, self.prefix_encoder = model.transformer, model.prefix_encoder

    def construct(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """Token ids (B, T) -> L + 1 times (B, T, D)."""
        model, (batch, tokens) = self.transformer, input_ids.shape
        x, (cos, sin, mask) = model.embedding(input_ids), model.place(input_ids)
        states: tuple[Tensor, ...] = (x.reshape(batch, tokens, -1),)
        prefix = None if self.prefix_encoder is None else self.prefix_encoder(batch)
        for i in range(len(model.encoder.layers)):
            x = model.encoder.step(i, x, cos, sin, mask, batch, prefix)
            states += (x.reshape(batch, tokens, -1),)
        return states
