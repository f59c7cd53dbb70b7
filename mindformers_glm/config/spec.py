"""A component as a file describes it: a registered class by its name, and the arguments it is built with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from mindformers_glm.registry import (
    CALLBACKS,
    CONFIGS,
    DATA_LOADERS,
    LR_SCHEDULES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    PROCESSORS,
    SCALE_SENSES,
    TOKENIZERS,
    TRACKERS,
    WRAPPERS,
    Checked,
    Registry,
)


class Place(NamedTuple):
    """Where a file names components of a kind; `runtime` are arguments that the program supplies and YAML cannot."""

    registry: Registry
    runtime: tuple[str, ...] = ()
    is_list: bool = False  # a list of them, or one alone


_SCHEDULE = ("key", "steps_per_epoch")
PLACES: dict[str, Place] = {
    "model.model_config": Place(CONFIGS),
    "model.arch": Place(MODELS, ("config", "network")),
    "optimizer": Place(OPTIMIZERS, ("params", "parameters")),
    "optimizer.learning_rate": Place(LR_SCHEDULES, _SCHEDULE),
    "lr_schedule": Place(LR_SCHEDULES, _SCHEDULE),
    "runner_wrapper": Place(WRAPPERS, ("network", "optimizer", "scale_sense")),
    "runner_wrapper.scale_sense": Place(SCALE_SENSES),
    "processor": Place(PROCESSORS, ("tokenizer",)),
    "processor.tokenizer": Place(TOKENIZERS),
    "metric": Place(METRICS, ("tokenizer",), is_list=True),
    "callbacks": Place(CALLBACKS, is_list=True),
    "eval_callbacks": Place(CALLBACKS, is_list=True),
    "report_to": Place(TRACKERS, is_list=True),
    "train_dataset.data_loader": Place(DATA_LOADERS),
    "train_dataset.tokenizer": Place(TOKENIZERS),
    "eval_dataset.data_loader": Place(DATA_LOADERS),
    "eval_dataset.tokenizer": Place(TOKENIZERS),
}


def named(value: Any) -> Any:
    """One component or several as a list, each a mapping or its name alone; None and "none" for none."""
    given = list(value) if isinstance(value, (list, tuple)) else [] if value in (None, "none", "None") else [value]
    return [{"type": one} if isinstance(one, str) else one for one in given]


def place_of(key: str) -> Place | None:
    """What stands at a dotted key of the file, also at a number within a list; None where it is no component."""
    above, _, leaf = key.rpartition(".")
    of_list = PLACES.get(above) if leaf.isdigit() else None
    return of_list if of_list is not None and of_list.is_list else PLACES.get(key)


def inner_names(key: str) -> set[str]:
    """The arguments of the component at a key that are components themselves."""
    return {name.removeprefix(f"{key}.") for name in PLACES if name.startswith(f"{key}.")}


class Spec(Checked):
    """A checked description: `type`, `arguments`, and `build()`. It is frozen; as a mapping it reads as written.

    >>> config.optimizer.type
    'FP32StateAdamWeightDecay'
    >>> config.optimizer.build(params=groups)
    """

    __slots__ = ("_parsed", "_values", "key")

    def __init__(self, values: Mapping[str, Any], key: str = "", parsed: BaseModel | None = None) -> None:
        """`parsed` is what checking has made of the values already, where the class is a model."""
        inner = inner_names(key) if key else set()
        self.key, self._parsed = key, parsed
        self._values = {
            name: Spec(value, f"{key}.{name}") if name in inner and isinstance(value, Mapping) else copy.deepcopy(value)
            for name, value in values.items()
        }

    @property
    def type(self) -> Any:
        """The registered name of the class."""
        return self._values.get("type")

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything beside `type`; components among them are Specs."""
        return {name: value for name, value in self._values.items() if name != "type"}

    def build(self, **runtime: Any) -> Any:
        """The component. `runtime` are objects that no file can name; those the class does not take are left out.

        Raises:
            ConfigError: a value that only the class itself can judge.
            LookupError: the description stands at no place of a run's file.
        """
        if self._parsed is not None:
            return self._parsed.model_copy(deep=True)  # whoever builds one may change it
        place = place_of(self.key)
        if place is None:
            raise LookupError(f"{self.key or 'this description'} is no component of a run")
        inner = {name: value.build() for name, value in self._values.items() if isinstance(value, Spec)}
        return place.registry.create({**self.to_dict(), **inner}, self.key, **runtime)

    def changed(self, **arguments: Any) -> Spec:
        """The same with other arguments; checked again by the class when it is built."""
        return Spec({**self._values, **arguments}, self.key)

    def without(self, *names: str) -> Spec:
        """The same with some arguments left out."""
        return Spec({name: value for name, value in self._values.items() if name not in names}, self.key)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            name: value.to_dict() if isinstance(value, Spec) else copy.deepcopy(value)
            for name, value in self._values.items()
        }

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        return f"Spec({self.type}{arguments})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Spec:
        return self

    def __reduce__(self) -> tuple[Callable[..., Spec], tuple[dict[str, Any], str]]:
        return Spec, (self.to_dict(), self.key)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, handler(dict[str, Any]))
