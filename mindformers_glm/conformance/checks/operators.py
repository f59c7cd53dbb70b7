"""Norm, activation, linear layers, embedding and loss: by the formulas, and by the kernels where the device has them.

Shapes: N rows, D hidden, F ffn, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.conformance import reference
from mindformers_glm.conformance.check import KINDS, Answer, Skipped, check
from mindformers_glm.conformance.device import array, tensor, value_and_gradients
from mindformers_glm.conformance.inputs import numbers, skip_on_cpu, whole
from mindformers_glm.labels import IGNORED
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import Embedding
from mindformers_glm.ops.cross_entropy import CrossEntropy, HeadCrossEntropy
from mindformers_glm.ops.kernels.operators import use_formulas
from mindformers_glm.ops.linear import Matmul
from mindformers_glm.ops.rms_norm import RmsNormWithGradient
from mindformers_glm.ops.swiglu import SwiGLUWithGradient

KERNELS_OFF = "GLM_KERNELS=off (the formulas are used)"
EPS = 1e-3  # large enough to be seen beside numbers of size 1


class _First(nn.Cell):
    """The first result of a Cell: the norm gives its input back too."""

    def __init__(self, cell: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, *inputs: Tensor) -> Tensor:
        return self.cell(*inputs)[0]


def formula(cell: nn.Cell) -> nn.Cell:
    """The Cell without its kernels."""
    use_formulas(cell)
    return cell


def kernel(cell: nn.Cell) -> nn.Cell:
    """The Cell, which has a kernel of the compiled library.

    Raises:
        Skipped: there is none on this device.
    """
    if runtime.device_target() != "CPU":
        raise Skipped("the compiled kernels are for CPUs")
    if not cell.kernel_is_on or cell.is_ascend:
        raise Skipped("the kernels are switched off or not built")
    return cell


def answer(cell: nn.Cell, function: Callable[..., np.ndarray], given: list[np.ndarray], kind: str, name: str) -> Answer:
    """A Cell beside a function of float64, with the gradients of all inputs."""
    wanted = function(*given)
    slope = numbers(f"{name} slope", *wanted.shape)
    found, grads = value_and_gradients(cell, slope, [tensor(one, kind) for one in given], len(given))
    wanted_grads = reference.gradients(function, slope, *given)
    names = [f"gradient {place}" for place in range(len(given))]
    return Answer(
        {"value": found, **dict(zip(names, grads, strict=True))},
        {"value": wanted, **dict(zip(names, wanted_grads, strict=True))},
    )


def rms_norm(cell: nn.Cell, kind: str) -> Answer:
    """A norm Cell (rows, weight) -> (normed, rows) beside the formula."""
    given = [numbers("norm x", 5, 16, kind=kind) * 0.125, numbers("norm weight", 16, kind=kind)]
    return answer(_First(cell), lambda x, w: reference.rms_norm(x, w, EPS), given, kind, "norm")


def swiglu(cell: nn.Cell, kind: str) -> Answer:
    """An activation Cell beside the formula."""
    return answer(cell, reference.silu_gate, [numbers("gate up", 4, 24, kind=kind)], kind, "swiglu")


@check("rms_norm", place="ops/rms_norm.py: RmsNormWithGradient, the formula", kinds=("float32", "float16"))
def _rms_norm(kind: str) -> Answer:
    return rms_norm(formula(RmsNormWithGradient(EPS)), kind)


@check("rms_norm.kernel", place="ops/kernels: GlmRmsNorm", switch_off=KERNELS_OFF)
def _rms_norm_kernel(kind: str) -> Answer:
    return rms_norm(kernel(RmsNormWithGradient(EPS)), kind)


@check("swiglu", place="ops/swiglu.py: SwiGLUWithGradient, the formula", kinds=("float32", "float16"))
def _swiglu(kind: str) -> Answer:
    return swiglu(formula(SwiGLUWithGradient()), kind)


@check("swiglu.kernel", place="ops/kernels: GlmSwiglu", switch_off=KERNELS_OFF)
def _swiglu_kernel(kind: str) -> Answer:
    return swiglu(kernel(SwiGLUWithGradient()), kind)


def _biased(cell: nn.Cell, kind: str) -> Answer:
    given = [numbers(f"linear {part}", *shape, kind=kind) for part, shape in _LINEAR.items()]
    return answer(cell, lambda x, w, b: x @ w.T + b, given, kind, "linear")


_LINEAR = {"x": (5, 12), "weight": (9, 12), "bias": (9,)}


@check("linear", place="ops/linear.py: linear", kinds=KINDS)
def _linear(kind: str) -> Answer:
    skip_on_cpu(kind, runtime.device_target())
    return _biased(formula(Matmul()), kind)


@check("linear.kernel", place="ops/kernels: GlmLinearBias", switch_off=KERNELS_OFF)
def _linear_kernel(kind: str) -> Answer:
    return _biased(kernel(Matmul()), kind)


@check("embedding", place="models/glm/model.py: Embedding")
def _embedding(kind: str) -> Answer:
    config = ChatGLM2Config(
        hidden_size=8, padded_vocab_size=11, kv_channels=8, num_attention_heads=1, multi_query_group_num=1
    )
    cell = Embedding(config)
    table, ids = numbers("table", 11, 8, kind=kind), whole("ids", 2, 6, below=11)
    ids[0, :2] = 0, 10
    cell.embedding_table.set_data(tensor(table).astype(cell.embedding_table.dtype))
    found = array(cell(tensor(ids)))
    return Answer({"value": found}, {"value": table[ids.reshape(-1)]})


def _labels() -> np.ndarray:
    labels = whole("labels", 7, below=13)
    labels[1], labels[4], labels[2] = IGNORED, IGNORED, 0
    return labels


@check("cross_entropy", place="ops/cross_entropy.py: CrossEntropy", kinds=("float32", "float16"))
def _cross_entropy(kind: str) -> Answer:
    logits, labels = numbers("logits", 7, 13, kind=kind), _labels()
    slope = np.ones(())
    found, grads = value_and_gradients(CrossEntropy(), slope, [tensor(logits, kind), tensor(labels)], 1)
    wanted = reference.gradients(lambda x: reference.cross_entropy(x, labels), slope, logits)
    return Answer(
        {"value": found, "gradient": grads[0]},
        {"value": reference.cross_entropy(logits, labels), "gradient": wanted[0]},
    )


def _head(cell: nn.Cell, kind: str) -> Answer:
    hidden, weight, labels = numbers("hidden", 7, 8, kind=kind), numbers("head", 13, 8, kind=kind), _labels()
    slope = np.ones(())

    def loss(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return reference.cross_entropy(x @ w.T, labels)

    given = [tensor(hidden, kind), tensor(weight, kind), tensor(labels)]
    found, grads = value_and_gradients(cell, slope, given, 2)
    wanted = reference.gradients(loss, slope, hidden, weight)
    return Answer(
        {"value": found, "gradient x": grads[0], "gradient weight": grads[1]},
        {"value": loss(hidden, weight), "gradient x": wanted[0], "gradient weight": wanted[1]},
    )


@check("cross_entropy.head", place="ops/cross_entropy.py: HeadCrossEntropy, the formula", needs=["cross_entropy"])
def _head_formula(kind: str) -> Answer:
    return _head(formula(HeadCrossEntropy()), kind)


@check("cross_entropy.kernel", place="ops/kernels: GlmHeadLoss", switch_off=KERNELS_OFF, needs=["cross_entropy"])
def _head_kernel(kind: str) -> Answer:
    return _head(kernel(HeadCrossEntropy()), kind)


class _Matmul(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        return self.matmul(a, b)


@check(
    "matmul.exact",
    place="MindSpore: ops.MatMul in float32, without rounding its operands",
    switch_off="matmuls of fewer bits: ms.device_context.ascend.op_precision.precision_mode('must_keep_origin_dtype')",
)
def _matmul(kind: str) -> Answer:
    """Operands that float16, bfloat16 and HF32 cannot hold, and a sum that has no error of its own."""
    a = np.full((16, 16), 1 + 2.0**-20)
    b = np.eye(16)
    found = _Matmul()(tensor(a), tensor(b)).astype(ms.float32).asnumpy().astype(np.float64)
    return Answer({"rounding": (found - 1) * 2.0**20}, {"rounding": np.ones((16, 16))})
