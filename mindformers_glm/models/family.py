"""What a family of models is: everything that the rest of the package asks about one, by name and imported when asked.

Adding a family is a module that calls `FAMILIES.add`, a line in `_MODULES`, a chat format, a tokenizer if it has one of
its own, and configurations. Nothing here needs MindSpore; the network is imported by whoever builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mindformers_glm.errors import CheckpointError, ConfigError

_MODULES = ("mindformers_glm.models.glm.families",)  # each registers its families when it is imported


@dataclass(frozen=True)
class Family:
    """One kind of model. What is a `module:name` is imported when it is asked for.

    - `config`, `network`: the classes of configuration and network;
    - `weights`: the module with the table of weight names, asked through naming.py;
    - `division`: the class that divides weights among tensor ranks; `parallel`: the module that makes a network of one
      rank (`local_size`, `parallelize`, `partial_gradients`, `square_shares`);
    - `training`: the module with what a run may change of a network that it trains (`freeze`, `set_training`);
    - `stages`: the module that says which layers a pipeline stage has (`Stages`, `stages_of`); `divides`: what divides
      the weights of a network over replicas (ZeRO 3);
    - `reads`: whether a config.json (a mapping) is one of this family; `reader` makes the configuration of it;
    - `form`: its form on Hugging Face, "hf" (chatglm names) or "native" (those of transformers); `writers`: what makes
      the config.json of each form it can be written in;
    - `infers`: what makes a configuration of the shapes of weights alone;
    - `described`: the module that says which weights do what, and the table of positions (`parts`, `rotary` and
      `expected_types`), so that the kernels compute the network without MindSpore; None: only `network` tells;
    - `adapted`: the layers that LoRA adapts where nobody says another;
    - `tokenizer`, `chat_format`: registered names; the format says which ids end a reply (`stop_ids`);
    - `vocabulary`: "sentencepiece" or "byte pairs";
    - `marks`: patterns of the last part of a model's name, in lower case; `words`: what only its chat template or its
      tokenizer's code says; `context`: whether the lengths of a config.json are those that it was published with.
    """

    name: str
    config: str
    network: str
    weights: str
    division: str
    parallel: str
    training: str
    stages: str
    divides: str
    form: str
    reads: Callable[[Mapping[str, Any]], bool]
    reader: str
    writers: Mapping[str, str]
    infers: str
    adapted: str
    tokenizer: str
    chat_format: str
    vocabulary: Literal["sentencepiece", "byte pairs"] = "sentencepiece"
    marks: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    context: Callable[[Mapping[str, Any]], bool] = lambda given: False
    described: str | None = None

    def config_class(self) -> type:
        """The class of its configuration."""
        return imported(self.config)

    def network_class(self) -> type:
        """The class of its network; this needs MindSpore."""
        return imported(self.network)

    def read_config(self, given: Mapping[str, Any], path: str | Path) -> Any:
        """The configuration that a config.json states.

        Raises:
            ConfigError: it describes another network.
        """
        return imported(self.reader)(given, path)

    def written(self, config: Any, form: str) -> dict[str, Any]:
        """The config.json of a configuration in one of its forms on Hugging Face.

        Raises:
            ConfigError: networks of that form have no such flag.
        """
        return imported(self.writers[form])(config)

    def divided(self, config: Any, size: int) -> Any:
        """The division of the network of a configuration among `size` tensor ranks."""
        return imported(self.division)(config, size)

    def trained(self) -> Any:
        """The module that freezes layers and sets noise and smoothing; this needs MindSpore."""
        return module_of(self.training)

    def ranks(self) -> Any:
        """The module that makes and describes the network of one rank; this needs MindSpore."""
        return module_of(self.parallel)

    def staged(self, config: Any, stages: int | tuple[int, ...]) -> Any:
        """The division of layers among so many pipeline stages, or of so many layers each.

        Raises:
            ConfigError: the layers cannot be divided so.
        """
        module = module_of(self.stages)
        if isinstance(stages, int):
            return module.stages_of(config, stages)
        return module.Stages(stages, config.tie_word_embeddings)

    def divide_weights(self, model: Any, config: Any, axis: Any) -> Any:
        """The network with its weights divided over the replicas of `axis`; this needs MindSpore."""
        return imported(self.divides)(model, config, axis)

    def lora_targets(self) -> str:
        """The pattern of the layers that LoRA adapts where nobody says another."""
        return f".*{self.adapted}*"


class Families:
    """The families by name, in the order in which they are asked."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._complete = False

    def add(self, family: Family, *, first: bool = False) -> Family:
        """Registers a family; `first` of all that are asked, as one that is told by more than others are."""
        if first:
            self._load()
        if family.name in self._families:
            raise KeyError(f"the family {family.name!r} is registered twice; rename one of them")
        found = {family.name: family}
        self._families = {**found, **self._families} if first else {**self._families, **found}
        return family

    def __iter__(self) -> Iterator[Family]:
        self._load()
        return iter(self._families.values())

    def get(self, name: str) -> Family:
        """The family of a name.

        Raises:
            ConfigError: there is none.
        """
        self._load()
        if name not in self._families:
            raise ConfigError("family", name, f"Use one of {', '.join(self._families)}.")
        return self._families[name]

    def of(self, config: Any) -> Family:
        """The family of a configuration, by its class.

        Raises:
            LookupError: no family has such a class.
        """
        places = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(config).__mro__}
        found = next((family for family in self if family.config in places), None)
        if found is None:
            raise LookupError(f"no family has configurations of the class {type(config).__name__}")
        return found

    def default(self) -> Family:
        """The family that is taken where nothing tells another: the last."""
        return list(self)[-1]

    def of_config(self, given: Mapping[str, Any]) -> Family:
        """The family whose config.json this is.

        Raises:
            ConfigError: no family reads it.
        """
        found = next((family for family in self if family.reads(given)), None)
        if found is None:
            raise ConfigError(
                "model_type", given.get("model_type"), "Only the dense models of the GLM family are read."
            )
        return found

    def read_config(self, given: Mapping[str, Any], path: str | Path) -> Any:
        """The configuration that a config.json states, of whatever family it is.

        Raises:
            ConfigError: it describes a network that is not here.
        """
        return self.of_config(given).read_config(given, path)

    def inferred(self, names: Collection[str], shape: Callable[[str], tuple[int, ...]], **known: Any) -> Any:
        """The configuration that the shapes of weights allow; `known` is what they do not tell.

        Raises:
            CheckpointError: the weights of no family.
        """
        *others, last = dict.fromkeys(family.infers for family in self)
        for place in others:
            with suppress(CheckpointError):
                return imported(place)(names, shape, **known)
        return imported(last)(names, shape, **known)

    def _load(self) -> None:
        if not self._complete:
            self._complete = True
            for module in _MODULES:
                import_module(module)


FAMILIES = Families()


def module_of(place: str) -> ModuleType:
    """The module of this name."""
    return import_module(place)


def imported(place: str) -> Any:
    """What `module:name` means."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
