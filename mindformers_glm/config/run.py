"""A checked configuration: sections by attribute, components as plain dicts, and the way from a file to it."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mindformers_glm.config.components import check_components
from mindformers_glm.config.evaluation import benchmark_of_metric, fit_to_metric
from mindformers_glm.config.legacy import (
    PROFILER,
    drop_of_tokenizers,
    lookup,
    normalise,
    profiler_settings,
    without_effect,
)
from mindformers_glm.config.loader import DATASET_TASKS, read_yaml, reads_as_text
from mindformers_glm.config.overrides import apply, parse_overrides
from mindformers_glm.config.ranges import boundless
from mindformers_glm.config.retyped import without_inherited
from mindformers_glm.config.rules import TRAINING, check_rules, world_size
from mindformers_glm.config.schema import RunSchema, check_schema, known_keys, section_of
from mindformers_glm.config.vocabulary import fill_vocabularies
from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.log import log_once


class Section(dict):
    """A mapping whose known keys are attributes too; a known key that was not given reads as None."""

    def __init__(self, values: Mapping[str, Any], known: Sequence[str]) -> None:
        super().__init__(values)
        object.__setattr__(self, "_known", frozenset(known))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in self.__dict__.get("_known", ()):
            return None
        raise AttributeError(f"{name!r} is not a key of this section; known: {', '.join(sorted(self._known))}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._known and name not in self:
            raise AttributeError(f"{name!r} is not a key of this section; known: {', '.join(sorted(self._known))}")
        self[name] = value

    def __deepcopy__(self, memo: dict) -> Section:
        return Section({key: copy.deepcopy(value, memo) for key, value in self.items()}, tuple(self._known))

    def __reduce__(self) -> tuple:
        return Section, (dict(self), tuple(self._known))


class RunConfig(Section):
    """Everything a run needs to know, checked. `config.runner_config.epochs`, `config.optimizer["type"]`.

    Sections (context, runner_config, parallel, ...) have attributes; components (optimizer, model.model_config,
    callbacks, ...) are plain dicts with `type`, ready for `Registry.build`.
    `train_dataset_task.dataset_config` is the object `train_dataset`. `source` is the file; `notes` say what was
    decided or ignored while reading it, for `log_notes` once there is a log.
    """

    def __init__(self, values: Mapping[str, Any], source: str, notes: Sequence[str] = ()) -> None:
        super().__init__(values, known_keys())
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "notes", list(notes))

    def __deepcopy__(self, memo: dict) -> RunConfig:
        return RunConfig({key: copy.deepcopy(value, memo) for key, value in self.items()}, self.source, self.notes)

    def __reduce__(self) -> tuple:
        return RunConfig, (dict(self), self.source, self.notes)

    def log_notes(self) -> None:
        """Logs each note, once in a process."""
        for note in self.notes:
            log_once(note)

    @property
    def initial_weights(self) -> str | None:
        """The checkpoint or model name a run starts from; None when random weights were asked for.

        `load_checkpoint`, else `model.model_config.checkpoint_name_or_path`. MindFormers trained from random weights
        when load_checkpoint was empty, whatever the second said; here `allow_random_weights: True` asks for that.

        Raises:
            ConfigError: nothing is named and random weights were not asked for, as in a run that was to be resumed.
        """
        name = _named_weights(self)
        if name is None and not self.allow_random_weights:
            fix = "There is nothing to start from: name a model, file or folder, or set allow_random_weights: True."
            raise ConfigError("load_checkpoint", self.load_checkpoint, fix)
        return name

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain dicts and lists; a linked dataset stands once."""
        plain = _plain(self)
        for task in DATASET_TASKS:
            if isinstance(plain.get(task), dict):
                plain[task].pop("dataset_config", None)
        return plain

    def dump(self, path: str | Path) -> Path:
        """Writes the resolved configuration as YAML that `load_config` reads again. Whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        given = {key: value for key, value in self.to_dict().items() if value is not None}
        for key, value in self.items():
            if isinstance(value, Section):
                given[key] = {name: item for name, item in given[key].items() if item is not None}
        text = yaml.dump(given, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"# resolved from {Path(self.source).name}\n{text}")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    def changed(self, change: Mapping[str, Any] | Sequence[str]) -> RunConfig:
        """A new configuration with a nested mapping, or words such as `a.b=v`, laid over this one; checked again.

        Raises:
            ConfigErrors: the result is faulty.
        """
        nested = change if isinstance(change, Mapping) else parse_overrides(change)
        return make_config(apply(self.to_dict(), nested), source=self.source)


def load_config(path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> RunConfig:
    """The checked configuration of a YAML file with `overrides` (`["a.b=v", "--a.b", "v"]`, or a mapping) over it.

    Import the packages that register components first: a component is checked only when its registry is filled.

    Raises:
        ConfigError: the file cannot be read.
        ConfigErrors: values are unknown, of a wrong type, or contradict each other; all of them.
    """
    nested = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return make_config(apply(read_yaml(path), nested), source=str(path))


def make_config(values: Mapping[str, Any], *, source: str = "configuration") -> RunConfig:
    """The checked configuration of a mapping with the keys of a YAML file.

    Raises:
        ConfigErrors: every fault in it.
    """
    values, notes = without_inherited(values)
    values = benchmark_of_metric(normalise({"run_mode": default_mode(values), **values}))
    schema, faults = check_schema(values)
    known = _quantised(_typed(schema)) if schema else values
    notes += [*drop_of_tokenizers(known), *fit_to_metric(known)]
    faults = _first_of_each_key([*faults, *boundless(values), *check_rules(known), *check_components(known)])
    if faults:
        raise ConfigErrors(source, faults)
    config = RunConfig(_sections(known), source, notes)
    config.notes.extend([*_settle(config), *without_effect(config)])
    return config


def default_mode(values: Mapping[str, Any]) -> str:
    """The run mode of a file that names none, from the sections it has."""
    if "infer" in values:
        return "export"
    return "train" if "train_dataset" in values else "predict"


def _typed(schema: RunSchema) -> dict[str, Any]:
    values = schema.model_dump(by_alias=True)
    for name in DATASET_TASKS.values():
        section = getattr(schema, name)
        if section is not None:  # what was not written is left to the dataset class
            values[name] = section.model_dump(by_alias=True, exclude_unset=True)
    return values


def _quantised(values: dict[str, Any]) -> dict[str, Any]:
    """The section `quantization` as keys of model_config, which the network reads."""
    section, model = values.get("quantization"), values.get("model")
    if section and model:
        model["model_config"]["quantization_bit"] = section["bits"]
        model["model_config"]["quantization_group_size"] = section["group_size"]
    return values


def _first_of_each_key(faults: Sequence[ConfigError]) -> list[ConfigError]:
    """One fault for each place: the fault of a section hides those that follow from it."""
    kept: dict[str, ConfigError] = {}
    for fault in faults:
        kept.setdefault(fault.key, fault)
    return list(kept.values())


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings that the schema describes become Sections; components stay plain dicts."""

    def convert(value: Any, path: tuple[str, ...]) -> Any:
        model = section_of(path)
        if not isinstance(value, dict) or model is None:
            return value
        known = (*known_keys(model), *value)
        return Section({key: convert(item, (*path, key)) for key, item in value.items()}, known)

    return {key: convert(value, (key,)) for key, value in values.items()}


def _settle(config: RunConfig) -> list[str]:
    """Sets values that follow from others: batch size, seed and link of both datasets, vocabularies. Returns notes."""
    notes = []
    size = config.runner_config.batch_size
    for task, name in DATASET_TASKS.items():
        dataset = config[name]
        if dataset is None:
            continue
        if dataset.get("batch_size") not in (None, size):
            notes.append(f"{name}.batch_size: runner_config.batch_size ({size}) replaces {dataset['batch_size']}.")
        dataset["batch_size"], dataset["seed"] = size, config.seed
        if config[task] is None:
            config[task] = Section({"type": "KeyWordGenDataset"}, ("type", "dataset_config"))
        config[task]["dataset_config"] = dataset
    weights = _named_weights(config)
    fill_vocabularies(config, weights)
    if config.profile and not any(spec.get("type") == PROFILER for spec in config.callbacks):
        config.callbacks.append({"type": PROFILER, **profiler_settings(config)})
    if config.run_mode == "train" and not config.load_checkpoint and not config.resume_training and weights:
        notes.append(
            f"load_checkpoint is empty: training starts from checkpoint_name_or_path {weights!r}. "
            "Set allow_random_weights: True to train from random weights."
        )
    if config.use_parallel and world_size() in (None, 1):
        notes.append("use_parallel is True and one process was started: start several with scripts/run_distribute.sh.")
    return notes


def _named_weights(config: RunConfig) -> str | None:
    if config.load_checkpoint:
        return config.load_checkpoint
    if config.allow_random_weights and config.run_mode in TRAINING:
        return None
    return lookup(config, "model.model_config.checkpoint_name_or_path") or None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """No anchors; text that our loader would read as something else is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if reads_as_text(text) else "'")


_Dumper.add_representer(str, _text)
