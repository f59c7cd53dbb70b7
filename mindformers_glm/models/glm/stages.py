"""Which layers, and which weights, each stage of a pipeline holds.

The embedding is on the first stage, final norm and output layer on the last, as in MindFormers. A table that is tied to
the output layer is on both; their gradients are added up.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import HEAD, TABLE
from mindformers_glm.optim.interface import parameter_of

_LAYER = re.compile(r"^(transformer\.encoder\.layers\.)(\d+)(\..*)$")
_LAST = ("transformer.encoder.final_layernorm.", "transformer.output_layer.")


class Part(NamedTuple):
    """Layers `first` to `end` - 1 of a network, and whether embedding and head belong to them."""

    first: int
    end: int
    is_first: bool = True
    is_last: bool = True
    tied: bool = False

    @property
    def has_table(self) -> bool:
        """True where the embedding's table is: at the first stage, and at the last one too when it is tied."""
        return self.is_first or (self.is_last and self.tied)

    def whole_name(self, name: str) -> str:
        """The name in the whole network of a parameter of this part, whose layers are numbered from 0."""
        found = _LAYER.match(name)
        return name if found is None else f"{found.group(1)}{int(found.group(2)) + self.first}{found.group(3)}"


class Stages(NamedTuple):
    """Layers of each stage."""

    counts: tuple[int, ...]
    tied: bool = False

    @property
    def size(self) -> int:
        """Number of stages."""
        return len(self.counts)

    def part(self, stage: int) -> Part:
        """What one stage holds."""
        first = sum(self.counts[:stage])
        return Part(first, first + self.counts[stage], stage == 0, stage == self.size - 1, self.tied)

    def of(self, name: str) -> tuple[int, ...]:
        """The stages that hold a tensor with our name; counters and what is not known are on all."""
        plain, last = parameter_of(name), self.size - 1
        found = _LAYER.match(plain)
        if found is not None:
            layer = int(found.group(2))
            return (next((s for s in range(self.size) if layer < sum(self.counts[: s + 1])), last),)
        if plain == TABLE:
            return (0, last) if self.tied and last else (0,)
        if plain == HEAD or plain.startswith(_LAST):
            return (last,)
        return tuple(range(self.size))


def stages_of(config: ChatGLM2Config, size: int) -> Stages:
    """The layers of `size` stages. `offset` says where they are not equal: a number of layers for each stage, added to
    num_layers // size, or one number by which every border moves towards the first stage; the last takes the rest.

    Raises:
        ConfigError: a stage would have no layer, or the layers of all stages are not those of the network.
    """
    layers, offset, equal = config.num_layers, config.offset, config.num_layers // size
    if size > layers:
        fix = f"The network has {layers} layers: use at most as many stages."
        raise ConfigError("parallel_config.pipeline_stage", size, fix)
    if isinstance(offset, list):
        if len(offset) == 1 and isinstance(offset[0], list):
            (offset,) = offset
        shown = f"num_layers // pipeline_stage = {equal} layers and one number for each of the {size} stages"
        if len(offset) != size or not all(isinstance(number, int) for number in offset):
            raise ConfigError("model.model_config.offset", config.offset, f"Give a list for {shown}.")
        counts = [equal + number for number in offset]
        if sum(counts) != layers or min(counts) < 1:
            fix = f"It makes stages of {counts} layers, and the network has {layers}: {shown}, at least one layer each."
            raise ConfigError("model.model_config.offset", config.offset, fix)
        return Stages(tuple(counts), config.tie_word_embeddings)
    owners = [min((layer + offset) // equal, size - 1) for layer in range(layers)]
    counts = [owners.count(stage) for stage in range(size)]
    if min(counts) < 1:
        fix = f"It makes stages of {counts} layers: give a list with one number for each stage."
        raise ConfigError("model.model_config.offset", offset, fix)
    return Stages(tuple(counts), config.tie_word_embeddings)
