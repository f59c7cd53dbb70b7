"""MindSpore's operators for Ascend (fused, in its words) in place of the formulas. UNVERIFIED: no device was at hand.

What was checked, on a CPU: names, arguments and documented limits against MindSpore 2.10, the graphs and
gradients that MindSpore makes of the calls, and that the calls, as documented, compute what the formulas compute
(tests/ops/test_ascend.py). The formulas stay with `GLM_KERNELS=off`, in exported graphs, with dynamic shapes, and on
the first devices (910, 910A), for which the documents of CANN 8 list none of these operators.

A Cell here has the inputs and outputs of the Cell that uses it. MindSpore derives its gradient, so recomputed layers
may use it.
"""

from __future__ import annotations

import os
from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm.errors import ConfigError
from mindformers_glm.mindspore_private import is_sequence_value_unknown
from mindformers_glm.ops.kernels.library import SWITCH
from mindformers_glm.runtime import device_target

_FIRST_DEVICES = "ascend910"  # later ones are ascend910b, ascend910_93, ...
_INTERLEAVED = 1  # mode of ops.rotary_position_embedding: neighbouring pairs
_CAUSAL = 2  # sparse_mode of ops.flash_attention_score: the triangle that starts at the first query and key
_WHOLE = 1  # sparse_mode of ops.flash_attention_score: a full mask is given
_MASK_SIZE = 2048  # rows and columns of the mask that this mode needs, for any length


def is_wanted() -> bool:
    """Whether the device in use is an Ascend that has these operators, and the switch does not say `off`.

    Raises:
        ConfigError: on Ascend, the switch has a value other than auto and off.
    """
    if device_target() != "Ascend":
        return False
    value = os.environ.get(SWITCH, "auto")
    if value not in ("auto", "off"):
        raise ConfigError(SWITCH, value, "On Ascend use auto, or off for formulas.")
    return value == "auto" and _device_kind() != _FIRST_DEVICES


def _device_kind() -> str:
    from mindformers_glm.mindspore_private import MSContext  # noqa: PLC0415 - asked for on Ascend alone

    return MSContext.get_instance().get_ascend_soc_version()


class AscendRmsNorm(nn.Cell):
    """RMSNorm by `ops.rms_norm`. Unverified on Ascend."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def fits(self, x: Tensor) -> bool:
        """Whether the operator takes x; the weight must have the type of x."""
        return _is_fixed(x) and (x.dtype == ms.float32 or _is_half(x))

    def construct(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Normed rows of x (N, D) for weight (D,), and x itself."""
        return ops.rms_norm(x, weight, self.eps)[0], x


class AscendSwiGLU(nn.Cell):
    """SwiGLU by `ops.swiglu`, whose gate is the first half, as in the formula. Unverified on Ascend."""

    def fits(self, x: Tensor) -> bool:
        """Whether the operator takes x."""
        return _is_fixed(x) and (x.dtype == ms.float32 or _is_half(x))

    def construct(self, x: Tensor) -> Tensor:
        """Rows (N, 2 F) -> (N, F)."""
        return ops.swiglu(x, -1)


class FlashAttention(nn.Cell):
    """Rotary positions and causal attention by `ops.rotary_position_embedding` and `ops.flash_attention_score`.

    The rotary operator's interleaved mode rotates every pair of a head. GLM rotates those of the first half; the result
    is the same, as `cos` is 1 and `sin` 0 in the second half of `rotary_table`. It computes in float32, like the
    formula, and also scales the queries (`head_scales`). MindSpore 2.10 has this operator, deprecated.

    Attention keeps no scores. Heads of a group share their key and value inside the operator. Unverified on Ascend.
    """

    def __init__(self, *, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.future = _future()

    def fits(self, x: Tensor, cos: Tensor) -> bool:
        """Whether the operators take rows x (N, (H + 2 K) E) with cos (1, H + 2 K, T, E).

        Attention takes float16 and bfloat16, at most 2000 sequences of at most 512000 tokens. The rotary operator takes
        at most 8 T heads in a batch, and fewer than 1000 sequences.
        """
        if not (_is_fixed(x) and _is_fixed(cos) and _is_half(x) and cos.dtype == ms.float32):
            return False
        tokens = cos.shape[2]
        batch = x.shape[0] // tokens
        return batch < 1000 and tokens <= 512_000 and batch * self.heads <= 8 * tokens

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, first: Tensor | None = None) -> Tensor:
        """Rows (N, (H + 2 K) E) -> (N, H E); cos and sin (1, H + 2 K, T, E) as `RotateHeads` takes them.

        For packed sequences `first` (B, T) is the first position that each token sees: a mask is made of it.
        """
        heads, width, tokens = self.heads, self.head_dim, cos.shape[2]
        both = (heads + cos.shape[1]) // 2  # heads of queries and keys, H + K
        x = x.reshape(-1, tokens, cos.shape[1], width).transpose(0, 2, 1, 3)
        q = _turned(x[:, :heads], cos[:, :1], sin[:, :1])
        k = _turned(x[:, heads:both], cos[:, heads : heads + 1], sin[:, heads : heads + 1])
        if first is not None:
            places = ops.arange(tokens)
            unseen = (places.reshape(1, 1, -1) > places.reshape(1, -1, 1)) | (places < first.expand_dims(2))
            mask = ops.cast(unseen.expand_dims(1), ms.uint8)
            out = ops.flash_attention_score(
                q, k, x[:, both:], heads, attn_mask=mask, scalar_value=1.0, input_layout="BNSD", sparse_mode=_WHOLE
            )
            return out.transpose(0, 2, 1, 3).reshape(-1, heads * width)
        out = ops.flash_attention_score(
            q, k, x[:, both:], heads, attn_mask=self.future, scalar_value=1.0, input_layout="BNSD", sparse_mode=_CAUSAL
        )
        return out.transpose(0, 2, 1, 3).reshape(-1, heads * width)


def flash_has_heads(*, heads: int, head_dim: int) -> bool:
    """Whether the attention operator has heads of this number and width."""
    return heads <= 256 and head_dim % 16 == 0 and head_dim <= 512


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return ops.cast(ops.rotary_position_embedding(ops.cast(x, ms.float32), cos, sin, _INTERLEAVED), x.dtype)


@cache
def _future() -> Tensor:
    """1 where a key comes after its query: (2048, 2048) uint8, one for all layers."""
    return Tensor(np.triu(np.ones((_MASK_SIZE, _MASK_SIZE), np.uint8), 1))


def _is_half(x: Tensor) -> bool:
    return x.dtype == ms.float16 or x.dtype == ms.bfloat16


def _is_fixed(x: Tensor) -> bool:
    return not is_sequence_value_unknown(x.shape)
