"""Faults to put into the suite, so that the kit shows that it finds them and names the right place.

`GLM_CONFORMANCE_FAULT=name mindformers-glm conformance` runs the kit with one. A fault replaces attributes; `found_by`
are the checks that the kit must name as the place to look at, and no others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindformers_glm.conformance import documented
from mindformers_glm.conformance.check import all_checks
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm import model as glm_model
from mindformers_glm.ops import attention, cross_entropy, linear, rms_norm, rotary, swiglu, yarn
from mindformers_glm.ops.kernels import operators as kernel_operators
from mindformers_glm.optim import adam, groups
from mindformers_glm.parallel import collectives
from mindformers_glm.train import step as train_step

_OPERATORS = (attention, cross_entropy, linear, rms_norm, swiglu)


class Fault(NamedTuple):
    """(owner, attribute, replacement) for each thing replaced, and the checks that must be named."""

    found_by: tuple[str, ...]
    replaced: tuple[tuple[Any, str, Any], ...]


# -- positions and attention


def _negative_turn(
    channels: int, rotated: int | None = None, *, _right: Callable[..., Any] = rotary.pair_turn
) -> np.ndarray:
    return -_right(channels, rotated)


def _turn_of_halves(channels: int, rotated: int | None = None) -> np.ndarray:
    """Channel i with channel i + half of what turns, as other models do."""
    turned = channels // 2 if rotated is None else rotated
    half, turn = turned // 2, np.zeros((channels, channels), np.float32)
    for i in range(half):
        turn[i + half, i], turn[i, i + half] = -1, 1
    return turn


def _exchanged_rope_rule(
    positions: Any,
    channels: int,
    *,
    _right: Callable[..., Any] = rotary.rotary_rows,
    method: str = "base",
    **settings: Any,
) -> np.ndarray:
    return _right(positions, channels, method="linear" if method == "base" else "base", **settings)


def _whole_head_turned(
    positions: Any,
    channels: int,
    *,
    _right: Callable[..., Any] = rotary.rotary_rows,
    rotated: int | None = None,
    **settings: Any,
) -> np.ndarray:
    return _right(positions, channels, rotated=channels, **settings)


def _unscaled(*, _right: Callable[..., Any] = rotary.head_scales, **sizes: Any) -> tuple[np.ndarray, np.ndarray]:
    factor, offset = _right(**sizes)
    factor[:, : sizes["heads"]] = 1
    return factor, offset


def _nothing_hidden(positions: Tensor, *, groups: int) -> Tensor:
    return ops.zeros((positions.shape[0], 1, groups * positions.shape[1], positions.shape[1]), ms.float32)


def _exchanged_groups(self: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    k, v = ops.flip(k, (1,)), ops.flip(v, (1,))
    probs = ops.softmax(ops.cast(attention._scores(q, k), ms.float32) + mask, -1).astype(v.dtype)
    return attention._mix(probs, v), probs


_right_blocks, _right_integers = attention.blocked_attention, linear.quantized_linear


def _cache_without_mask(q: Tensor, blocks: tuple, *, drop: ms.nn.Cell | None = None) -> Tensor:
    return _right_blocks(q, ((blocks[0][0], blocks[0][1], None), *blocks[1:]), drop=drop)


# -- norm, activation, linear layers, loss


def _norm_in_half(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    half = ops.cast(x, ms.float16)
    return ops.cast(half / ops.sqrt(ops.ReduceMean(True)(ops.square(half), -1) + eps), x.dtype) * weight


def _norm_without_eps(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / ops.sqrt(ops.ReduceMean(True)(ops.square(x), -1) + eps / 100) * weight


def _up_before_gate(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    return x[:, half:], x[:, :half]


def _without_bias(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.MatMul(transpose_b=True)(x, ops.cast(weight, x.dtype))


def _counts_one_more(labels: Tensor) -> tuple[Tensor, Tensor]:
    kept = (labels != cross_entropy.IGNORED).reshape(-1, 1)
    weight = ops.cast(kept, ms.float32)
    return ops.cast(kept, ms.int32) * labels.reshape(-1, 1), weight / (weight.sum() + 1.0)


def _learns_ignored(labels: Tensor) -> tuple[Tensor, Tensor]:
    kept = ops.cast((labels != cross_entropy.IGNORED).reshape(-1, 1), ms.int32)
    weight = ops.ones((labels.shape[0], 1), ms.float32)
    return kept * labels.reshape(-1, 1), weight / (weight.sum() + 1e-5)


class _Shifted(glm_model.Embedding):
    def construct(self, input_ids: Tensor) -> Tensor:
        return ops.cast(ops.gather(self.embedding_table, ops.maximum(input_ids.reshape(-1) - 1, 0), 0), self.dtype)


def _high_half_first(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, bits: int, columns: int
) -> Tensor:
    if bits == 4:
        whole = ops.cast(weight, ms.int32)
        weight = ops.cast((whole % 16) * 16 + whole // 16, ms.uint8)
    return _right_integers(x, weight, scale, bias, bits=bits, columns=columns)


def _no_stretch(self: Any, frequencies: np.ndarray, *, base: float, rotated: int) -> np.ndarray:
    return frequencies


# -- kernels: the call goes to the library with one input changed


def _kernel_with(name: str, change: Callable[..., tuple]) -> Callable[..., Any]:
    """`operator` with the inputs of the kernel `name` changed on the way."""
    right = kernel_operators.operator

    def operator(called: str, shape: Callable[..., Any], dtype: Any = ms.float32, **more: Any) -> Any:
        made = right(called, shape, dtype, **more)
        return _Changed(made, change) if called == name and made is not None else made

    return operator


class _Changed(ms.nn.Cell):
    def __init__(self, made: Any, change: Callable[..., tuple]) -> None:
        super().__init__()
        self.made, self.change = made, change

    def construct(self, *inputs: Tensor) -> Tensor:
        return self.made(*self.change(*inputs))


def _eps_of_another(x: Tensor, weight: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, weight, eps * 100


def _no_bias(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, weight, bias * 0


def _other_half(x: Tensor) -> tuple[Tensor]:
    half = x.shape[-1] // 2
    return (ops.concat((x[:, half:], x[:, :half]), 1),)


def _sine_negative(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, cos, -sin


def _no_first(x: Tensor, cos: Tensor, sin: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x, cos, sin, first * 0


def _share_of_all(x: Tensor, weight: Tensor, target: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x, weight, target, share * 0.9


# -- optimizer and step


def _no_correction(self: Any, grads: tuple[Tensor, ...], factor: Tensor) -> Tensor:
    return self.update(grads, self.learning_rate * 1.0, self.eps * ops.ones((), ms.float32), factor)


def _decays_everything(parameters: Any, weight_decay: float, lr_ratio: float | None = None) -> list[dict[str, Any]]:
    return [{"params": list(parameters), "weight_decay": float(weight_decay)}]


def _no_finite_check(
    self: Any, grads: tuple[Tensor, ...], factor: Tensor, learning_rate: Tensor, stop: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    norm = ops.sqrt(self.squared_norm(grads)) / factor
    ops.assign(self.rate, learning_rate)
    norm = self.apply(grads, factor, norm)
    return norm, ops.ones((), ms.float32), stop


# -- ranks


class _MeanFromRanks(collectives.ReduceFromRanks):
    def construct(self, x: Tensor) -> Tensor:
        return self.reduce(x) / 2

    def bprop(self, x: Tensor, out: Tensor, grad: Tensor) -> tuple[Tensor]:
        return (grad,)


def _parts_exchanged(axis: collectives.Axis, *, _right: Callable[..., Any] = collectives.gather_operator) -> ms.nn.Cell:
    return _Backwards(_right(axis))


class _Backwards(ms.nn.Cell):
    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def construct(self, x: Tensor) -> Tensor:
        return ops.flip(self.made(x), (0,))


# -- operators of Ascend, as documented, on a CPU


def _ascend_norm_in_half(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    made, scale = documented_rms_norm(ops.cast(x, ms.float16), ops.cast(gamma, ms.float16), epsilon)
    return ops.cast(made, x.dtype), scale


def _ascend_norm_eps(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    return documented_rms_norm(x, gamma, epsilon / 100)


def _ascend_up_first(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002 - MindSpore's name
    half = input.shape[-1] // 2
    return documented_swiglu(ops.concat((input[..., half:], input[..., :half]), -1), dim)


def _ascend_negative(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
    return documented_rotary(x, cos, -sin, mode)


def _ascend_halves(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + ops.concat((-x[..., half:], x[..., :half]), -1) * sin


def _flash_groups(query: Tensor, key: Tensor, value: Tensor, *more: Any, **named: Any) -> tuple[Tensor, ...]:
    return documented_flash(query, ops.flip(key, (1,)), ops.flip(value, (1,)), *more, **named)


def _flash_scale(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, *, scalar_value: float = 1.0, **named: Any
) -> tuple[Tensor, ...]:
    return documented_flash(query, key, value, head_num, scalar_value=scalar_value / 4, **named)


def _flash_unmasked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    *,
    attn_mask: Tensor | None = None,
    scalar_value: float = 1.0,
    **named: Any,
) -> tuple[Tensor, ...]:
    """Every query sees every key."""
    batch, _, tokens, _ = query.shape
    seen = ops.zeros((batch, 1, tokens, tokens), ms.uint8)
    return documented_flash(
        query, key, value, head_num, attn_mask=seen, scalar_value=scalar_value, input_layout="BNSD", sparse_mode=1
    )


documented_rms_norm, documented_swiglu = documented.rms_norm, documented.swiglu
documented_rotary, documented_flash = documented.rotary_position_embedding, documented.flash_attention_score


def _kernel(check: str, name: str, change: Callable[..., tuple]) -> Fault:
    made = _kernel_with(name, change)
    return Fault((check,), tuple((module, "operator", made) for module in _OPERATORS))


FAULTS: dict[str, Fault] = {
    "rotary_sign": Fault(("rotary.turn",), ((rotary, "pair_turn", _negative_turn),)),
    "rotary_halves": Fault(("rotary.turn",), ((rotary, "pair_turn", _turn_of_halves),)),
    "rope_rule": Fault(("rotary.table",), ((rotary, "rotary_rows", _exchanged_rope_rule),)),
    "rotary_whole_head": Fault(("rotary.table",), ((rotary, "rotary_rows", _whole_head_turned),)),
    "yarn_ignored": Fault(("rotary.yarn",), ((yarn.Yarn, "stretched", _no_stretch),)),
    "attention_scale": Fault(("rotary.scales",), ((rotary, "head_scales", _unscaled),)),
    "kv_groups": Fault(("attention",), ((attention.Attention, "construct", _exchanged_groups),)),
    "causal_mask": Fault(("attention.mask",), ((attention, "causal_mask", _nothing_hidden),)),
    "cache_mask": Fault(("attention.cache",), ((attention, "blocked_attention", _cache_without_mask),)),
    "norm_float16": Fault(("rms_norm",), ((rms_norm, "_rms_norm", _norm_in_half),)),
    "norm_eps": Fault(("rms_norm",), ((rms_norm, "_rms_norm", _norm_without_eps),)),
    "gate_up": Fault(("swiglu",), ((swiglu, "_halves", _up_before_gate),)),
    "bias": Fault(("linear",), ((linear, "linear", _without_bias),)),
    "loss_divisor": Fault(("cross_entropy",), ((cross_entropy, "_targets", _counts_one_more),)),
    "ignored_label": Fault(("cross_entropy",), ((cross_entropy, "_targets", _learns_ignored),)),
    "embedding": Fault(("embedding",), ((glm_model.Embedding, "construct", _Shifted.construct),)),
    "int4_halves": Fault(("linear.int4",), ((linear, "quantized_linear", _high_half_first),)),
    "kernel_norm_eps": _kernel("rms_norm.kernel", "GlmRmsNorm", _eps_of_another),
    "kernel_bias": _kernel("linear.kernel", "GlmLinearBias", _no_bias),
    "kernel_gate_up": _kernel("swiglu.kernel", "GlmSwiglu", _other_half),
    "kernel_rotary": _kernel("attention.kernel", "GlmAttention", _sine_negative),
    "kernel_packed": _kernel("attention.packed_kernel", "GlmPackedAttention", _no_first),
    "kernel_loss": _kernel("cross_entropy.kernel", "GlmHeadLoss", _share_of_all),
    "adam_correction": Fault(("optimizer.adamw",), ((adam.AdamW, "scaled", _no_correction),)),
    "decay_on_norms": Fault(("optimizer.groups",), ((groups, "decay_groups", _decays_everything),)),
    "overflow": Fault(("step.overflow",), ((train_step.Update, "construct", _no_finite_check),)),
    "all_reduce_mean": Fault(
        ("ranks.all_reduce",), ((collectives.ReduceFromRanks, "construct", _MeanFromRanks.construct),)
    ),
    "all_gather_order": Fault(("ranks.all_gather",), ((collectives, "gather_operator", _parts_exchanged),)),
    "ascend_norm_float16": Fault(("ascend.rms_norm",), ((documented, "rms_norm", _ascend_norm_in_half),)),
    "ascend_norm_eps": Fault(("ascend.rms_norm",), ((documented, "rms_norm", _ascend_norm_eps),)),
    "ascend_gate_up": Fault(("ascend.swiglu",), ((documented, "swiglu", _ascend_up_first),)),
    "ascend_rotary_sign": Fault(("ascend.rotary",), ((documented, "rotary_position_embedding", _ascend_negative),)),
    "ascend_rotary_mode": Fault(("ascend.rotary",), ((documented, "rotary_position_embedding", _ascend_halves),)),
    "ascend_kv_groups": Fault(
        ("ascend.flash", "ascend.flash_packed"), ((documented, "flash_attention_score", _flash_groups),)
    ),
    "ascend_scale": Fault(
        ("ascend.flash", "ascend.flash_packed"), ((documented, "flash_attention_score", _flash_scale),)
    ),
    "ascend_mask": Fault(
        ("ascend.flash", "ascend.flash_packed"), ((documented, "flash_attention_score", _flash_unmasked),)
    ),
}


@contextmanager
def injected(name: str) -> Iterator[None]:
    """Within it the suite has the fault `name`; "" is none.

    Raises:
        ConfigError: there is no such fault.
    """
    if not name:
        yield
        return
    if name not in FAULTS:
        raise ConfigError("GLM_CONFORMANCE_FAULT", name, f"Use one of {', '.join(FAULTS)}.")
    all_checks()  # what they import by name is replaced too
    with ExitStack() as stack:
        for owner, attribute, replacement in FAULTS[name].replaced:
            for place in _owners(owner, attribute):
                stack.enter_context(mock.patch.object(place, attribute, replacement))
        yield


def _owners(owner: Any, attribute: str) -> list[Any]:
    """The owner, and every module of the package that imported the same thing by name."""
    if not isinstance(owner, ModuleType):
        return [owner]
    right, package = getattr(owner, attribute), __name__.partition(".")[0]
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{package}.") and name != __name__]
    return [module for module in modules if getattr(module, "__dict__", {}).get(attribute) is right]
