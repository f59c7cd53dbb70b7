"""What a run may change of a network that it trains: frozen layers, noise on the embedding, smoothed labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from mindspore import Tensor, nn, ops

from mindformers_glm.errors import ConfigError, nearest
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import TABLE, expected_shapes
from mindformers_glm.parallel.work import Trained

_LAYERS = "transformer.encoder.layers."


class EmbeddingNoise(nn.Cell):
    """NEFTune (Jain et al. 2023): uniform noise of at most alpha / sqrt(T D) on every number of the embedding.

    T is the length of the rows with their padding, as in transformers. The noise follows from `seed`; a resumed run
    begins its sequence anew, as it does with dropout.
    """

    def __init__(self, alpha: float, *, seed: int = 0):
        super().__init__()
        self.alpha, self.uniform = alpha, ops.UniformReal(seed=seed % (2**31 - 1) + 1, seed2=0)

    def construct(self, rows: Tensor, tokens: int) -> Tensor:
        """Noise of the shape and type of the rows (N, D), which hold sequences of `tokens`."""
        size = self.alpha / (tokens * rows.shape[1]) ** 0.5
        return ops.cast((2 * self.uniform(rows.shape) - 1) * size, rows.dtype)


def freeze(
    model: nn.Cell, *, first_layers: int = 0, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """Freezes the embedding with the first layers, and parameters by shell patterns over their names, but those that
    `exclude` names; what is frozen already stays so. Returns the names that it froze.

    Raises:
        ConfigError: more layers than there are, a pattern that no name has, or nothing is left to train.
    """
    names = [parameter.name for parameter in model.get_parameters()]
    layers = model.config.num_layers
    if first_layers > layers:
        raise ConfigError("freeze_first_layers", first_layers, f"The network has {layers} layers.")
    for key, patterns in (("freeze_include", include), ("freeze_exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names) and model.part.is_last and not model.part.first:
                near = nearest(pattern, names, cutoff=0.3)
                hint = f" Parameters are called like {near[0] if near else names[-1]}."
                raise ConfigError(key, pattern, f"No parameter has such a name; * stands for any letters.{hint}")
    frozen = []
    for parameter in model.get_parameters():
        if parameter.requires_grad and is_frozen(parameter.name, first_layers, include, exclude):
            parameter.requires_grad = False
            frozen.append(parameter.name)
    if not model.trainable_params():
        key, value = ("freeze_first_layers", first_layers) if first_layers else ("freeze_include", list(include))
        raise ConfigError(key, value, "Nothing is left to train: freeze less.")
    return frozen


def is_frozen(name: str, first_layers: int, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether `freeze` freezes a parameter of this name."""
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        return False
    layer = _layer_of(name)
    first = first_layers > 0 and (name == TABLE if layer is None else layer < first_layers)
    return first or any(fnmatchcase(name, pattern) for pattern in include)


def _layer_of(name: str) -> int | None:
    return int(name.removeprefix(_LAYERS).partition(".")[0]) if name.startswith(_LAYERS) else None


def trained_part(config: ChatGLM2Config, is_trained: Callable[[str], bool]) -> Trained:
    """What a step trains of a whole network without adapters, from the names of its weights."""
    left = {name: shape for name, shape in expected_shapes(config).items() if is_trained(name)}
    layers = [_layer_of(name) for name in left]
    before = 0 if TABLE in left else min((i for i in layers if i is not None), default=config.num_layers)
    matrices = sum(math.prod(shape) for name, shape in left.items() if len(shape) > 1 and name != TABLE)
    return Trained(matrices, layers_before=before)


def set_training(model: nn.Cell, *, noise_alpha: float = 0.0, smoothing: float = 0.0, seed: int = 0) -> None:
    """Noise and smoothed labels while the network trains; its evaluation has neither. Call it after freezing."""
    model.transformer.noise = EmbeddingNoise(noise_alpha, seed=seed) if noise_alpha else None
    model.set_loss(smoothing=smoothing)
