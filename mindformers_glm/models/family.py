"""What a family of models is: everything that the rest of the package asks about one, by name and imported when asked.

Adding a family is a module that calls `FAMILIES.add`, a line in `_MODULES`, a chat format, a tokenizer if it has one of
its own, and configurations. Nothing here needs MindSpore; the network is imported by whoever builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError

_MODULES = ("mindformers_glm.models.glm.families",)  # each registers its families when it is imported


@dataclass(frozen=True)
class Family:
    """One kind of model. What is a `module:name` is imported when it is asked for.

    - `config`, `network`: the classes of configuration and network;
    - `weights`, `division`: modules with the table of weight names (`WEIGHTS`, `expected_shapes`) and with the division
      among tensor ranks (`Layout`, `local_config`);
    - `form`: its form on Hugging Face, "hf" (chatglm names) or "transformers";
    - `reads`: whether a config.json (a mapping) is one of this family; `reader` makes the configuration of it;
    - `tokenizer`, `chat_format`: registered names;
    - `marks`: words in the last part of a model's name.
    """

    name: str
    config: str
    network: str
    weights: str
    division: str
    form: str
    reads: Callable[[Mapping[str, Any]], bool]
    reader: str
    tokenizer: str
    chat_format: str
    stop_tokens: tuple[str, ...]
    marks: tuple[str, ...] = ()

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


class Families:
    """The families by name, in the order in which they are asked."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._complete = False

    def add(self, family: Family) -> Family:
        """Registers a family."""
        if family.name in self._families:
            raise KeyError(f"the family {family.name!r} is registered twice; rename one of them")
        self._families[family.name] = family
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

    def _load(self) -> None:
        if not self._complete:
            self._complete = True
            for module in _MODULES:
                import_module(module)


FAMILIES = Families()


def imported(place: str) -> Any:
    """What `module:name` means."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
