"""YAML files as users write them: `1e-5` and None mean what they look like, `base_config` inherits."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mindformers_glm.config.bounds import check_nodes, fullwidth_hint, read_text
from mindformers_glm.config.legacy import respelt_layer
from mindformers_glm.config.retyped import retyped
from mindformers_glm.errors import ConfigError, kind_of

_MOST_FILES = 64  # read for one configuration: files that include each other twice would double with every level
DATASET_TASKS = {"train_dataset_task": "train_dataset", "eval_dataset_task": "eval_dataset"}
_FLOAT = re.compile(
    r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
    re.ASCII,
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with `1e-5` as a number, `None` as nothing, dates as text, and no key written twice.

    What aliases stand for is counted before anything is built of them.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rows if not tag.endswith((":float", ":timestamp"))]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        check_nodes(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError):  # of a tag such as !!int
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this is no {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(name, str):
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name!r} is written twice", key_node.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"None$"), ["N"])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping of a YAML file, with every file that `base_config` names merged below it.

    Values are not checked: see `load_config`. `train_dataset_task.dataset_config` has become `train_dataset`.

    Raises:
        ConfigError: the file is missing, empty, not YAML, not a mapping, or inherits from itself.
    """
    return _read(Path(path), (), itertools.count())


def reads_as_text(word: str) -> bool:
    """Whether a word written without quotes is read back as the same text."""
    try:
        return yaml.load(word, Loader=_Loader) == word  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError:
        return False


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: `change` over `base`, mapping into mapping; anything else replaces.

    A component of another `type` keeps the inherited arguments that the new class takes too: see retyped.py.
    """
    merged = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in change.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return retyped(base, change, merged)


def _read(path: Path, including: tuple[Path, ...], count: Iterator[int]) -> dict[str, Any]:
    if next(count) >= _MOST_FILES:
        raise ConfigError("base_config", str(path), f"More than {_MOST_FILES} files are included. Join some of them.")
    values = _parse(path)
    real = path.resolve()
    if real in including:
        chain = " -> ".join(str(file.name) for file in (*including, real))
        raise ConfigError("base_config", str(path), f"The files include each other: {chain}. Remove one of the links.")
    bases = values.pop("base_config", None)
    merged: dict[str, Any] = {}
    for name in _base_names(bases, path):
        merged = merge(merged, _read(path.parent / name, (*including, real), count))
    return merge(merged, respelt_layer(_with_plain_datasets(values)))


def _base_names(bases: Any, path: Path) -> list[str]:
    if bases is None:
        return []
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: base_config", bases, "Give one file name or a list of them.")
    return names


def _parse(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        values = copy.deepcopy(_loaded(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        hint = fullwidth_hint(text, mark.line if mark else 0)
        problem = "a list or mapping as a key" if error.problem == "found unhashable key" else error.problem
        fault = f"This is not valid YAML: {problem or error.context}. Repair it there.{hint}"
        raise ConfigError(place, _line(text, mark), fault) from None
    except RecursionError:
        raise ConfigError("config", str(path), "The file is nested too deeply: name the YAML of a run.") from None
    except yaml.YAMLError as error:
        fault = f"This is not valid YAML: {' '.join(str(error).split())}. Repair it there."
        raise ConfigError(str(path), "", fault) from None
    if values is None:
        raise ConfigError("config", str(path), "The file is empty. Start from one in configs/.")
    if not isinstance(values, dict):
        hint = fullwidth_hint(text, len(text.splitlines()))
        fix = f"The file holds a {kind_of(values)}, not `key: value` lines: name the YAML of a run.{hint}"
        raise ConfigError("config", str(path), fix)
    _check_keys(values, str(path), ())
    return values


@lru_cache(maxsize=32)  # files are asked for network, weights and tokenizer, and many share their bases
def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader


def _line(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    return lines[mark.line].strip() if mark and mark.line < len(lines) else ""


def _check_keys(value: Any, place: str, above: tuple[int, ...]) -> None:
    """Raises ConfigError for a key that is not text and for an anchor that contains itself."""
    if not isinstance(value, (dict, list)):
        return
    if id(value) in above:
        raise ConfigError(place, "*alias", "This anchor contains itself.")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(place, key, "Keys must be text; put it in quotes.")
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        _check_keys(item, f"{place}: {key}" if not above else f"{place}.{key}", (*above, id(value)))


def _with_plain_datasets(values: dict[str, Any]) -> dict[str, Any]:
    """`*_dataset_task.dataset_config` moved to `*_dataset`, which decides where both are given, as in MindFormers."""
    values = dict(values)
    for task, dataset in DATASET_TASKS.items():
        section = values.get(task)
        if isinstance(section, dict) and "dataset_config" in section:
            values[task] = {key: value for key, value in section.items() if key != "dataset_config"}
            values.setdefault(dataset, section["dataset_config"])
    return values
