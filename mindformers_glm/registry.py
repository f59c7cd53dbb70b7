"""Names that YAML may write, and the classes behind them: one Registry for each kind of component.

`type: NAME` picks the class, every other key is an argument. Arguments are checked against the class's own
signature before it is called, so a wrong key or type is reported with its dotted place and not from inside.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import pydantic

from mindformers_glm.errors import MOST_NAMED, ConfigError, listed, nearest

_WORDS = {
    "Input should be": "It should be",
    "a valid dictionary": "a mapping of `key: value` lines",
    "a valid boolean": "True or False",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}


class Checked(Mapping[str, Any]):
    """A description that has been checked and knows how it is built."""

    __slots__ = ()

    @abstractmethod
    def build(self, **runtime: Any) -> Any:
        """The component; `runtime` are objects that YAML cannot name."""


class Registry:
    """Name -> class or function of one kind, or where it is ("module:name"), to be imported when it is asked for.

    `complete`: whoever imports it has imported all of its names. `factories` is the table.
    """

    def __init__(self, kind: str, *, complete: bool = False) -> None:
        self.kind, self.complete = kind, complete
        self.factories: dict[str, Callable | str] = {}

    def register(self, *aliases: str) -> Callable[[Callable], Callable]:
        """Decorator: registers a class or function under its own name and under each alias."""

        def add(factory: Callable) -> Callable:
            for name in (factory.__name__, *aliases):
                self._put(name, factory)
            return factory

        return add

    def add(self, place: str, *aliases: str) -> None:
        """Registers "module:name" under its own name and each alias; nothing is imported before it is asked for."""
        for name in (place.rpartition(":")[2], *aliases):
            self._put(name, place)

    def _put(self, name: str, factory: Callable | str) -> None:
        there = self.factories.get(name, factory)
        is_named = isinstance(there, str) or isinstance(factory, str)
        if _place(there) != _place(factory) if is_named else there is not factory:
            raise KeyError(f"{self.kind} {name!r} is registered twice; rename one of them")
        if not isinstance(factory, str) or name not in self.factories:
            self.factories[name] = factory

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False  # what a YAML wrote there: a list cannot even be looked up
        for fill_some in (fill_light, fill):
            if name not in self.factories and not self.complete:
                fill_some()
        return name in self.factories

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        if not self.complete:
            fill()
        return sorted(self.factories)

    def get(self, name: Any, key: str = "") -> Callable:
        """The factory of a name.

        Raises:
            ConfigError: nothing of this kind has such a name.
        """
        if isinstance(name, str) and name in self:
            found = self.factories[name]
            if isinstance(found, str):
                module, _, attribute = found.partition(":")
                found = self.factories[name] = getattr(importlib.import_module(module), attribute)
            return found
        near = nearest(str(name), self.factories)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {listed(self.names(), MOST_NAMED)}."
        raise ConfigError(key or self.kind, name, f"No {self.kind} has this name. {hint}")

    def arguments(self, name: str) -> set[str] | None:
        """The arguments that the class or function of a name takes; None when it takes any."""
        return _accepted(self.get(name))

    def parsed(self, spec: Mapping[str, Any], key: str) -> tuple[pydantic.BaseModel | None, list[ConfigError]]:
        """The model that a `spec` of a registered pydantic class describes, or None and its faults.

        None without a fault: the class is no model, and whoever asks builds it.
        """
        factory = self.get(spec.get("type"), f"{key}.type") if spec.get("type") in self else None
        if not (isinstance(factory, type) and issubclass(factory, pydantic.BaseModel)):
            return None, []
        return _model(factory, {name: value for name, value in spec.items() if name != "type"}, key)

    def check(self, spec: Any, key: str, *, runtime: Iterable[str] = ()) -> list[ConfigError]:
        """Faults of `spec` (a mapping with `type`), none when it can be built.

        `runtime` names the arguments that the program supplies and YAML cannot.
        """
        if not isinstance(spec, Mapping):
            return [ConfigError(key, spec, "Expected a mapping with `type`.")]
        if "type" not in spec:
            return [ConfigError(f"{key}.type", None, f"Name a {self.kind}: {listed(self.names(), MOST_NAMED)}.")]
        try:
            factory = self.get(spec["type"], f"{key}.type")
        except ConfigError as error:
            return [error]
        given = {name: value for name, value in spec.items() if name != "type"}
        if isinstance(factory, type) and issubclass(factory, pydantic.BaseModel):
            return _model(factory, given, key)[1]
        return _signature_faults(factory, given, key, set(runtime))

    def build(self, spec: Mapping[str, Any], key: str, **runtime: Any) -> Any:
        """The component that `spec` describes; `runtime` are objects that YAML cannot name.

        A description of a run's configuration (`config.spec.Spec`) has been checked and is not checked again.

        Raises:
            ConfigError: `type` is missing or unknown, or an argument is unknown, missing or of a wrong type.
        """
        if isinstance(spec, Checked):
            return spec.build(**runtime)
        faults = self.check(spec, key, runtime=runtime)
        if faults:
            raise faults[0]
        return self.create(spec, key, **runtime)

    def create(self, spec: Mapping[str, Any], key: str, **runtime: Any) -> Any:
        """The component of a `spec` that `check` has passed.

        Raises:
            ConfigError: a value that only the class itself can judge.
        """
        factory = self.get(spec.get("type"), f"{key}.type")
        given = {name: value for name, value in spec.items() if name != "type"}
        accepted = _accepted(factory)
        supplied = runtime if accepted is None else {k: v for k, v in runtime.items() if k in accepted}
        try:
            return factory(**{**given, **supplied})
        except pydantic.ValidationError as error:
            if not (isinstance(factory, type) and issubclass(factory, pydantic.BaseModel)):
                raise
            raise pydantic_faults(error, key, factory.model_fields)[0] from None


CONFIGS = Registry("model config")
MODELS = Registry("model")
TOKENIZERS = Registry("tokenizer")
PROCESSORS = Registry("processor")
DATA_LOADERS = Registry("data loader")
DATA_HANDLERS = Registry("data handler")
DATASETS = Registry("dataset")
LR_SCHEDULES = Registry("learning-rate schedule")
OPTIMIZERS = Registry("optimizer")
WRAPPERS = Registry("runner wrapper")
SCALE_SENSES = Registry("loss scale")
CALLBACKS = Registry("callback")
METRICS = Registry("metric")
TRACKERS = Registry("tracker")
SCHEMES = Registry("quantisation scheme")
TRAINERS = Registry("trainer")
PIPELINES = Registry("pipeline")

# Behaviour that a lower layer offers under its own name and a higher layer provides, for example
# `model.generate`: the model looks it up here, so that it need not import upward.
SERVICES: dict[str, Callable] = {}


def service(name: str) -> Callable:
    """The registered service.

    Raises:
        LookupError: nothing provides it; without MindSpore there are none.
    """
    if name not in SERVICES:
        fill()
    if name not in SERVICES:
        raise LookupError(f"{name!r} is not available: it needs MindSpore, or nothing registers such a service")
    return SERVICES[name]


def fill_light() -> None:
    """Imports the modules that register a name and need no MindSpore."""
    importlib.import_module("mindformers_glm.light_components")  # a later row, as below


def fill() -> None:
    """Imports every module that registers a name. What asks for a name needs to import nothing for its sake."""
    importlib.import_module("mindformers_glm.components")  # later rows, so by name: nothing here may depend on them


def unknown_key(key: str, got: Any, known: Iterable[str]) -> ConfigError:
    """The fault of a key nobody knows, with the nearest known one. `key` is dotted."""
    leaf, known = key.rpartition(".")[2], list(known)
    near = nearest(leaf, known)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {listed(sorted(known), MOST_NAMED)}."
    return ConfigError(key, got, f"Unknown key. {hint}")


def sentence(message: str) -> str:
    """Pydantic's message in our words."""
    message = message.removeprefix("Value error, ").partition(", unable to")[0]
    if "exceeded maximum size" in message:
        return "Use a number of at most 64 bits."
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message[:1].upper() + message[1:].rstrip(".") + "."


def pydantic_faults(error: pydantic.ValidationError, key: str, known: Iterable[str]) -> list[ConfigError]:
    """Pydantic's report as our own lines: dotted key, value, repair."""
    faults = []
    for item in error.errors():
        path = ".".join([key, *(str(part) for part in item["loc"])]).strip(".")
        if item["type"] in ("extra_forbidden", "no_such_attribute"):
            faults.append(unknown_key(path, item["input"], known))
        elif item["type"] == "missing":
            faults.append(ConfigError(path, None, "This key must be given."))
        elif isinstance(item.get("ctx", {}).get("error"), ConfigError):
            inner = item["ctx"]["error"]
            for one in getattr(inner, "errors", [inner]):
                faults.append(ConfigError(f"{key}.{one.key}".strip("."), one.got, one.fix))
        else:
            faults.append(ConfigError(path, item["input"], sentence(item["msg"])))
    return faults


def _place(factory: Callable | str) -> str:
    return factory if isinstance(factory, str) else f"{factory.__module__}:{factory.__qualname__}"


def _accepted(factory: Callable) -> set[str] | None:
    """Names of the arguments a factory takes; None when it takes any."""
    if isinstance(factory, type) and issubclass(factory, pydantic.BaseModel):
        return set(factory.model_fields)
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _model(
    model: type[pydantic.BaseModel], given: dict[str, Any], key: str
) -> tuple[pydantic.BaseModel | None, list[ConfigError]]:
    try:
        return model.model_validate(given), []
    except pydantic.ValidationError as error:
        return None, pydantic_faults(error, key, model.model_fields)
    except ConfigError as error:
        return None, [ConfigError(f"{key}.{error.key}", error.got, error.fix)]


def _signature_faults(factory: Callable, given: dict[str, Any], key: str, runtime: set[str]) -> list[ConfigError]:
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    hints = _hints(factory)
    faults = []
    for name, value in given.items():
        if name not in named or name in runtime:
            if not open_ended:
                faults.append(unknown_key(f"{key}.{name}", value, set(named) - runtime))
        elif name in hints:
            faults += _type_faults(_adapter(factory, name), value, f"{key}.{name}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in given and name not in runtime:
            faults.append(ConfigError(f"{key}.{name}", None, "This key must be given."))
    return faults


@lru_cache(maxsize=256)  # components are checked again for every change of a configuration
def _hints(factory: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except (NameError, TypeError):
        return {}


@lru_cache(maxsize=1024)
def _adapter(factory: Callable, name: str) -> pydantic.TypeAdapter | None:
    """What checks an argument of a component; None for a type that pydantic cannot check."""
    hint = _hints(factory)[name]
    try:
        return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.PydanticUserError:  # a type that carries its own configuration
        return pydantic.TypeAdapter(hint)
    except pydantic.errors.PydanticSchemaGenerationError:
        return None


def _type_faults(adapter: pydantic.TypeAdapter | None, value: Any, key: str) -> list[ConfigError]:
    if adapter is None:
        return []
    try:
        adapter.validate_python(value)
    except pydantic.ValidationError as error:
        return [ConfigError(key, value, sentence(error.errors()[0]["msg"]))]
    return []
