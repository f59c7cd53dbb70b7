"""Linear layers and norms of every network here. Shapes: N rows, D hidden."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.linear import Matmul, matrix_type
from mindformers_glm.ops.rms_norm import RmsNorm, RmsNormWithGradient, layer_norm

INIT_SIGMA = 0.02


class Linear(nn.Cell):
    """A weight (out, in), and a bias where the layer has one, in `param_init_type`."""

    is_plain = True  # nothing but the weight and the bias: an operator may use them directly

    def __init__(self, columns: int, rows: int, *, bias: bool, config: NetworkConfig, sigma: float = INIT_SIGMA):
        super().__init__()
        kind = getattr(ms, config.param_init_type)
        self.in_channels, self.out_channels = columns, rows
        self.weight = Parameter(initializer(Normal(sigma), (rows, columns), kind), name="weight")
        self.bias = Parameter(initializer("zeros", (rows,), kind), name="bias") if bias else None
        self.dtype, rounded = matrix_type(config.compute_dtype)
        self.matmul = Matmul(rounded=rounded)

    def construct(self, x: Tensor) -> Tensor:
        """Rows x W^T + b in `compute_dtype`: (N, in) -> (N, out)."""
        return self.matmul(ops.cast(x, self.dtype), self.weight, self.bias)


class Norm(nn.Cell):
    """RMSNorm, or LayerNorm with `rmsnorm: False`."""

    def __init__(self, config: NetworkConfig, *, with_gradient: bool = True):
        super().__init__()
        self.dtype = getattr(ms, config.layernorm_compute_type)
        self.weight = Parameter(initializer("ones", (config.hidden_size,), self.dtype), name="weight")
        self.bias = None
        if not config.rmsnorm:
            self.bias = Parameter(initializer("zeros", (config.hidden_size,), self.dtype), name="bias")
        self.eps = config.layernorm_epsilon
        self.rms_norm = (RmsNormWithGradient if with_gradient else RmsNorm)(self.eps)
        self.same = config.layernorm_compute_type == config.stream_dtype

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normed rows (N, D) in `layernorm_compute_type`, and beside them the rows themselves, for the residual."""
        wide = ops.cast(x, self.dtype)
        if self.bias is not None:
            return layer_norm(wide, self.weight, self.bias, eps=self.eps), x
        normed, wide = self.rms_norm(wide, self.weight)
        return normed, wide if self.same else x
