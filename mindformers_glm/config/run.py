"""A checked configuration: typed sections, components as descriptions that build, and the way from a file to it."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

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
from mindformers_glm.config.pretrained import with_folder
from mindformers_glm.config.ranges import boundless
from mindformers_glm.config.retyped import without_inherited
from mindformers_glm.config.rules import TRAINING, check_rules, rate_of, world_size
from mindformers_glm.config.schema import (
    DatasetSection,
    DatasetTaskSection,
    ModelSection,
    RunSchema,
    check_schema,
    section_of,
)
from mindformers_glm.config.spec import PLACES, Spec, place_of
from mindformers_glm.config.vocabulary import fill_vocabularies
from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.log import log_once


class RunConfig(RunSchema):
    """What a run needs to know, checked, typed and frozen: `config.runner_config.epochs`, `config.optimizer.build()`.

    Sections (context, runner_config, parallel, ...) are models; components (optimizer, model.config, callbacks, ...)
    are `Spec`s, parsed descriptions that build their class. `source` is the file; `notes` say what was decided or
    ignored while reading it, for `log_notes` once there is a log.
    """

    _source: str = "configuration"
    _notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The file it was read from."""
        return self._source

    @property
    def notes(self) -> list[str]:
        """What was decided or ignored while reading, a line each."""
        return list(self._notes)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What a prompt shows: where it is from, what it does, and its components."""
        yield "source", self._source
        yield "run_mode", self.run_mode
        for name in ("load_checkpoint", "model", "train_dataset", "eval_dataset", "optimizer", "lr_schedule", "metric"):
            if getattr(self, name) is not None:
                yield name, getattr(self, name)

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
        shape = None if self.model is None else self.model.config
        name = _named_weights(self.load_checkpoint, self.allow_random_weights and self.trains, shape)
        if name is None and not self.allow_random_weights:
            fix = "There is nothing to start from: name a model, file or folder, or set allow_random_weights: True."
            raise ConfigError("load_checkpoint", self.load_checkpoint, fix)
        return name

    @property
    def metrics(self) -> tuple[Spec, ...]:
        """Every metric of the run, in order."""
        return () if self.metric is None else (self.metric,) if isinstance(self.metric, Spec) else self.metric

    @property
    def rate(self) -> tuple[str, Spec | float | str | None]:
        """The key that says the learning rate, and what stands there: `optimizer.learning_rate` wins."""
        return rate_of({"optimizer": self.optimizer, "lr_schedule": self.lr_schedule})

    @property
    def trains(self) -> bool:
        """Whether the run mode changes weights."""
        return self.run_mode in TRAINING

    @property
    def network(self) -> ModelSection:
        """The section `model`.

        Raises:
            ConfigError: the file has none.
        """
        if self.model is None:
            raise ConfigError("model", None, "Describe the network: model_config and arch. Copy it from configs/.")
        return self.model

    def dataset(self, phase: str) -> tuple[DatasetSection, DatasetTaskSection]:
        """The sections of the data of phase "train" or "eval".

        Raises:
            ConfigError: the file has none.
        """
        trains = phase == "train"
        section = self.train_dataset if trains else self.eval_dataset
        task = self.train_dataset_task if trains else self.eval_dataset_task
        if section is None:
            raise ConfigError(f"{phase}_dataset", None, "Describe the data: data_loader, tokenizer, lengths.")
        return section, task or DatasetTaskSection()

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain dicts and lists, as a file would hold it."""
        values = super().to_dict()
        for task in DATASET_TASKS:
            if values[task] is not None:
                del values[task]["dataset_config"]  # the loader moved it to the dataset
        return values

    def dump(self, path: str | Path) -> Path:
        """Writes the resolved configuration as YAML that `load_config` reads again. Whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        given = {key: value for key, value in self.to_dict().items() if value is not None}
        for key in given:
            if section_of((key,)) is not None:
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
    values, notes = without_inherited(with_folder(values))
    values = benchmark_of_metric(normalise({"run_mode": default_mode(values), **values}))
    schema, faults = check_schema(values)
    known = _quantised(schema.to_dict()) if schema else values
    notes += [*drop_of_tokenizers(known), *fit_to_metric(known)]
    parsed: dict[str, BaseModel] = {}
    faults = _first_of_each_key([*faults, *boundless(values), *check_rules(known), *check_components(known, parsed)])
    if faults:
        raise ConfigErrors(source, faults)
    notes += [*_settle(known), *without_effect(known)]
    config = _constructed(RunConfig, known, "", parsed)
    config._source, config._notes = source, tuple(notes)
    return config


def default_mode(values: Mapping[str, Any]) -> str:
    """The run mode of a file that names none, from the sections it has."""
    if "infer" in values:
        return "export"
    return "train" if "train_dataset" in values else "predict"


def _quantised(values: dict[str, Any]) -> dict[str, Any]:
    """The section `quantization` as keys of model_config, which the network reads."""
    section, model = values.get("quantization"), values.get("model")
    if section and model:
        known = model["model_config"]
        if section["group_size"] is not None:
            known["quantization_group_size"] = section["group_size"]
        if section["scheme"] is None:
            known["quantization_bit"] = section["bits"]
        for key in ("scheme", "head_bits", "embedding_bits", "weights"):
            known[f"quantization_{key}"] = section[key]
    return values


def _first_of_each_key(faults: Sequence[ConfigError]) -> list[ConfigError]:
    """One fault for each place: the fault of a section hides those that follow from it."""
    kept: dict[str, ConfigError] = {}
    for fault in faults:
        kept.setdefault(fault.key, fault)
    return list(kept.values())


M = TypeVar("M", bound=BaseModel)


def _constructed(model: type[M], values: Mapping[str, Any], above: str, parsed: Mapping[str, BaseModel]) -> M:
    """The typed section of values that have been checked; components become Specs that know their place."""
    return model.model_construct(None, **{key: _at(value, f"{above}{key}", parsed) for key, value in values.items()})


def _at(value: Any, key: str, parsed: Mapping[str, BaseModel]) -> Any:
    if isinstance(value, Mapping):
        section = section_of(tuple(key.split(".")))
        if section is not None:
            return _constructed(section, value, f"{key}.", parsed)
        return Spec(value, key, parsed.get(key)) if place_of(key) else copy.deepcopy(dict(value))
    if isinstance(value, (list, tuple)):
        is_components = key in PLACES
        items = [
            _at(item, f"{key}.{index}", parsed) if is_components else copy.deepcopy(item)
            for index, item in enumerate(value)
        ]
        return tuple(items) if is_components else items
    return value


def _settle(values: dict[str, Any]) -> list[str]:
    """Sets values that follow from others: batch size and seed of both datasets, vocabularies. Returns notes."""
    notes = []
    size = values["runner_config"]["batch_size"]
    for task, name in DATASET_TASKS.items():
        dataset = values[name]
        if dataset is None:
            continue
        if dataset.get("batch_size") not in (None, size):
            notes.append(f"{name}.batch_size: runner_config.batch_size ({size}) replaces {dataset['batch_size']}.")
        dataset["batch_size"], dataset["seed"] = size, values["seed"]
        if values[task] is None:
            values[task] = {"type": "KeyWordGenDataset"}
    random = values["allow_random_weights"] and values["run_mode"] in TRAINING
    weights = _named_weights(values["load_checkpoint"], random, lookup(values, "model.model_config"))
    fill_vocabularies(values, weights)
    if values["profile"] and not any(spec.get("type") == PROFILER for spec in values["callbacks"]):
        values["callbacks"].append({"type": PROFILER, **profiler_settings(values)})
    if values["run_mode"] == "train" and not values["load_checkpoint"] and not values["resume_training"] and weights:
        notes.append(
            f"load_checkpoint is empty: training starts from checkpoint_name_or_path {weights!r}. "
            "Set allow_random_weights: True to train from random weights."
        )
    if values["use_parallel"] and world_size() in (None, 1):
        notes.append("use_parallel is True and one process was started: start several with scripts/run_distribute.sh.")
    return notes


def _named_weights(load_checkpoint: str | None, is_random: bool, shape: Mapping[str, Any] | None) -> str | None:
    if load_checkpoint or is_random:
        return load_checkpoint or None
    return (shape or {}).get("checkpoint_name_or_path") or None


class _Dumper(yaml.SafeDumper):
    """No anchors; text that our loader would read as something else is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if reads_as_text(text) else "'")


_Dumper.add_representer(str, _text)
