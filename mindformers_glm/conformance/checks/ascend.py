"""The operators for Ascend in ops/ascend.py, one by one.

On Ascend MindSpore's operators run. A CPU lacks them: there conformance/documented.py stands in their place, which
says that the calls mean the formulas and nothing about a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.conformance import documented, reference
from mindformers_glm.conformance.check import Answer, Skipped, check
from mindformers_glm.conformance.checks.attention import FIRST, rows_answer
from mindformers_glm.conformance.checks.operators import EPS, rms_norm, swiglu
from mindformers_glm.conformance.checks.positions import CHANNELS, HEADS, places
from mindformers_glm.conformance.device import array, pynative, tensor
from mindformers_glm.conformance.inputs import numbers
from mindformers_glm.ops import ascend

NAMES = ("rms_norm", "swiglu", "rotary_position_embedding", "flash_attention_score")
_HALVES = ("float16", "bfloat16")
_NOTE = "CPU: the documented meaning stood in the operator's place; an Ascend is not vouched for"
_OFF = "GLM_KERNELS=off (formulas instead of all operators for Ascend)"
_FLASH_OFF = "use_flash_attention: False (formulas for attention), or GLM_KERNELS=off"


@contextmanager
def _operators() -> Iterator[str]:
    """The operators of this device, or what is documented of them; what must be said of it."""
    if runtime.device_target() == "Ascend":
        if not ascend.is_wanted():
            raise Skipped("this Ascend has none of these operators, or GLM_KERNELS=off")
        yield ""
        return
    with pynative():
        patches = [mock.patch.object(ops, name, getattr(documented, name)) for name in NAMES]
        for patch in patches:
            patch.start()
        try:
            yield _NOTE
        finally:
            for patch in patches:
                patch.stop()


def _with_note(answer: Answer, note: str) -> Answer:
    return answer._replace(note=note)


@check("ascend.rms_norm", place="ops/ascend.py: AscendRmsNorm", switch_off=_OFF, kinds=("float32", *_HALVES))
def _rms_norm(kind: str) -> Answer:
    with _operators() as note:
        return _with_note(rms_norm(ascend.AscendRmsNorm(EPS), kind), note)


@check("ascend.swiglu", place="ops/ascend.py: AscendSwiGLU", switch_off=_OFF, kinds=("float32", *_HALVES))
def _swiglu(kind: str) -> Answer:
    with _operators() as note:
        return _with_note(swiglu(ascend.AscendSwiGLU(), kind), note)


class _Turn(nn.Cell):
    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return ascend._turned(x, cos, sin)


@check(
    "ascend.rotary",
    place="ops/ascend.py: FlashAttention, rotary mode 1 (neighbouring pairs)",
    switch_off=_FLASH_OFF,
)
def _rotary(kind: str) -> Answer:
    tokens = 9
    x = numbers("turned heads", 2, HEADS, tokens, CHANNELS, kind=kind)
    cos, sin = (part[:, HEADS : HEADS + 1] for part in places(tokens))  # those of a key: not scaled
    with _operators() as note:
        found = array(_Turn()(tensor(x, kind), tensor(cos), tensor(sin)))
    return Answer({"value": found}, {"value": reference.rotate(x, range(tokens))}, note)


@check(
    "ascend.flash",
    place="ops/ascend.py: FlashAttention, sparse_mode 2 (causal)",
    switch_off=_FLASH_OFF,
    needs=["ascend.rotary"],
    kinds=_HALVES,
)
def _flash(kind: str) -> Answer:
    with _operators() as note:
        cell = ascend.FlashAttention(heads=HEADS, head_dim=CHANNELS)
        return _with_note(rows_answer(cell, kind), note)


@check(
    "ascend.flash_packed",
    place="ops/ascend.py: FlashAttention, sparse_mode 1 (packed rows)",
    switch_off=_FLASH_OFF,
    needs=["ascend.rotary"],
    kinds=_HALVES,
)
def _flash_packed(kind: str) -> Answer:
    with _operators() as note:
        cell = ascend.FlashAttention(heads=HEADS, head_dim=CHANNELS)
        return _with_note(rows_answer(cell, kind, FIRST), note)
