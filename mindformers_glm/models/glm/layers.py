"""The parts of a layer. Shapes: B batch, T tokens, N = B * T rows, S cache, D hidden, H heads, K kv heads,
G = H / K, E head_dim, F ffn, V vocabulary. Activations are rows (N, .): only attention need know B and T.

What the parts are told of the rows' places: `cos` and `sin` (B or 1, H + 2 K, T, E) of their positions, `mask` (B or 1,
1, G * T, T) among them, and `batch`, which is B. One mask for all sequences is the causal one of positions 0 to T - 1.
These are plain arguments, because in PyNative mode a recomputed Cell differentiates no tuples.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.log import log_once
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.interface import BlockParts
from mindformers_glm.models.linear import INIT_SIGMA, Linear, Norm
from mindformers_glm.ops.attention import (
    Attention,
    AttentionWithGradient,
    CausalAttention,
    blocked_attention,
    join_heads,
    split_heads,
)
from mindformers_glm.ops.kernels.operators import use_formulas
from mindformers_glm.ops.linear import matrix_type
from mindformers_glm.ops.rotary import RotateHeads, RotateHeadsWithGradient
from mindformers_glm.ops.swiglu import SwiGLU, SwiGLUWithGradient

Recomputed = Literal["nothing", "scores", "all"]
_NO_FLASH = (
    "use_flash_attention: True has no effect here: the operator needs Atlas A2 (910B) or later, compute_dtype float16 "
    "or bfloat16, at most 256 heads of 16 to 512 channels in steps of 16, multi_query_attention, no attention_dropout, "
    "no prefix and no GLM_KERNELS=off. Formulas are used."
)


class CoreAttention(nn.Cell):
    """What attention does between its projections: a Cell of its own, so that it can be recomputed alone."""

    def __init__(self, config: ChatGLM2Config, *, with_gradient: bool):
        super().__init__()
        self.drop = nn.Dropout(p=config.attention_dropout) if config.attention_dropout else None
        self.attention = AttentionWithGradient() if with_gradient and self.drop is None else Attention(self.drop)

    def construct(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        prefix_k: Tensor | None = None,
        prefix_v: Tensor | None = None,
    ) -> Tensor:
        """Queries (B, K, G * T, E), keys and values (B, K, T, E), a prefix (B, K, P, E) -> (B, K, G * T, E)."""
        if prefix_k is None:
            return self.attention(q, k, v, mask)[0]
        return blocked_attention(q, ((prefix_k, prefix_v, None), (k, v, mask)), drop=self.drop)


class SelfAttention(nn.Cell):
    """Causal attention of grouped heads with rotary positions."""

    def __init__(self, config: ChatGLM2Config, sigma: float, *, with_gradient: bool, core_with_gradient: bool):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_kv_heads, config.kv_channels
        self.grouped = config.multi_query_attention
        self.join: Any = None  # a Cell: keys and values of all ranks that share a sequence (context parallel)
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        bias = config.add_qkv_bias or config.add_bias_linear
        self.dtype = matrix_type(config.compute_dtype)[0]
        self.query_key_value = Linear(config.hidden_size, width, bias=bias, config=config)
        self.core = CoreAttention(config, with_gradient=core_with_gradient)
        self.whole = CausalAttention(heads=self.heads, head_dim=self.head_dim, flash=config.use_flash_attention)
        by_formula = self.core.drop is not None or not (core_with_gradient or self.whole.is_ascend)
        self.may_be_whole = self.grouped and not by_formula
        if config.use_flash_attention and runtime.device_target() == "Ascend":
            has_it = self.whole.is_ascend and self.may_be_whole and self.dtype != ms.float32 and not config.has_prefix
            if not has_it:
                log_once(_NO_FLASH, level=logging.WARNING)
        self.dense = Linear(
            self.heads * self.head_dim, config.hidden_size, bias=config.add_bias_linear, config=config, sigma=sigma
        )
        rotate = RotateHeadsWithGradient if with_gradient else RotateHeads
        sizes = {"heads": self.heads, "kv_heads": self.kv_heads, "channels": self.head_dim}
        self.rotate = rotate(**sizes, rotated=config.rotary_dim)

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        batch: int,
        prefix_k: Tensor | None = None,
        prefix_v: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Rows (N, D) -> (N, D). A prefix (B, K, P, E) is seen by every sequence. `first` (B, T) for packed rows."""
        x = self.query_key_value(x)
        joins = self.join is not None and self.training
        if self.may_be_whole and prefix_k is None and not joins:
            if first is None and self.whole.takes(x, cos, mask):
                return self.dense(self.whole(x, cos, sin))
            if first is not None and self.whole.takes_packed(x, cos):
                return self.dense(self.whole.packed(x, cos, sin, first))
        q, k, v = self.take_apart(x, cos, sin, batch)
        if joins:
            k, v = self.join(k), self.join(v)
        out = self.core(q, k, v, mask, prefix_k, prefix_v)
        return self.dense(join_heads(out, batch=batch, heads=self.heads))

    def cached(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, batch: int, past: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (N, D) -> (N, D), and the new keys and values (B, K, T, E).

        `past` holds blocks (keys, values, mask) of (B, K, S, E) twice and a mask or None.
        """
        q, k, v = self.take_apart(self.query_key_value(x), cos, sin, batch)
        out = blocked_attention(q, (*past, (k, v, mask)))
        return self.dense(join_heads(out, batch=batch, heads=self.heads)), k, v

    def take_apart(self, x: Tensor, cos: Tensor, sin: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Projected rows -> rotated, scaled queries (B, K, G * T, E), rotated keys and plain values (B, K, T, E)."""
        h, k, e = self.heads, self.kv_heads, self.head_dim
        if self.grouped:  # rows q | k | v
            x = split_heads(x, batch=batch, heads=h + 2 * k, head_dim=e)
        else:  # for each head its q, k, v
            x = x.reshape(batch, -1, h, 3, e).transpose(0, 3, 2, 1, 4)
            x = x.reshape(batch, 3 * h, -1, e)
        q, k, v = self.rotate(ops.cast(x, ms.float32), cos, sin)
        return ops.cast(q, self.dtype), ops.cast(k, self.dtype), ops.cast(v, self.dtype)


class MLP(nn.Cell):
    """Two projections around SwiGLU."""

    def __init__(self, config: ChatGLM2Config, sigma: float, *, with_gradient: bool):
        super().__init__()
        hidden, ffn, bias = config.hidden_size, config.ffn_hidden_size, config.add_bias_linear
        self.dense_h_to_4h = Linear(hidden, 2 * ffn, bias=bias, config=config)
        self.activation = SwiGLUWithGradient() if with_gradient else SwiGLU()
        self.dense_4h_to_h = Linear(ffn, hidden, bias=bias, config=config, sigma=sigma)

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, D) -> (N, D)."""
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(x)))


class Block(nn.Cell):
    """One layer: attention and MLP, each after a norm and added to the residual, which GLM-4-0414 norms before.

    `recomputed` in the backward pass instead of kept: everything, "scores" (attention between its projections, and the
    MLP's activation), or nothing.
    """

    def __init__(self, config: ChatGLM2Config, *, recomputed: Recomputed = "nothing"):
        super().__init__()
        sigma = INIT_SIGMA / (2 * config.num_layers) ** 0.5  # what is added to the residual 2 L times keeps its size
        with_gradient = recomputed != "all" or not runtime.is_graph_mode()  # see ops/__init__.py
        core_with_gradient = recomputed == "nothing" or not runtime.is_graph_mode()
        self.input_layernorm = Norm(config, with_gradient=with_gradient)
        self.self_attention = SelfAttention(
            config, sigma, with_gradient=with_gradient, core_with_gradient=core_with_gradient
        )
        self.post_attention_layernorm = Norm(config, with_gradient=with_gradient)
        self.mlp = MLP(config, sigma, with_gradient=core_with_gradient)
        self.post_self_attn_layernorm = (
            Norm(config, with_gradient=with_gradient) if config.post_self_attn_layernorm else None
        )
        self.post_mlp_layernorm = Norm(config, with_gradient=with_gradient) if config.post_mlp_layernorm else None
        self.drop = nn.Dropout(p=config.hidden_dropout) if config.hidden_dropout else None
        self.residual_is_norm = config.apply_residual_connection_post_layernorm
        self.dtype = getattr(ms, config.stream_dtype)
        if recomputed == "all":
            if not with_gradient:
                use_formulas(self, keep_ascend=True)
            self.recompute()
        elif recomputed == "scores":
            self.self_attention.core.recompute()
            self.mlp.activation.recompute()

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        batch: int,
        prefix_k: Tensor | None = None,
        prefix_v: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Rows (N, D) -> (N, D) in the type of the residual. `first` (B, T) for packed rows."""
        normed, x = self.input_layernorm(x)
        out = self.self_attention(normed, cos, sin, mask, batch, prefix_k, prefix_v, first)
        return self.rest(x, normed, out)

    def cached(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, batch: int, past: tuple
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (N, D) -> (N, D), and the new keys and values (B, K, T, E); see SelfAttention.cached."""
        normed, x = self.input_layernorm(x)
        out, key, value = self.self_attention.cached(normed, cos, sin, mask, batch, past)
        return self.rest(x, normed, out), key, value

    def rest(self, x: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        """The layer after attention: rows x, their norm, attention's result -> (N, D)."""
        if self.post_self_attn_layernorm is not None:
            out = self.post_self_attn_layernorm(out)[0]
        x = self.add(normed if self.residual_is_norm else x, out)
        normed, x = self.post_attention_layernorm(x)
        out = self.mlp(normed)
        if self.post_mlp_layernorm is not None:
            out = self.post_mlp_layernorm(out)[0]
        return self.add(normed if self.residual_is_norm else x, out)

    def add(self, residual: Tensor, out: Tensor) -> Tensor:
        """The sum residual + dropout(out) in the type of the residual."""
        if self.drop is not None:
            out = self.drop(out)
        return ops.cast(residual, self.dtype) + ops.cast(out, self.dtype)

    @property
    def parts(self) -> BlockParts:
        """Its Cells by what they do."""
        attention, mlp = self.self_attention, self.mlp
        return BlockParts(
            attention_norm=self.input_layernorm,
            attention=attention,
            qkv=attention.query_key_value,
            out=attention.dense,
            after_attention=self.post_self_attn_layernorm,
            mlp_norm=self.post_attention_layernorm,
            mlp=mlp,
            gate_up=mlp.dense_h_to_4h,
            down=mlp.dense_4h_to_h,
            after_mlp=self.post_mlp_layernorm,
        )
