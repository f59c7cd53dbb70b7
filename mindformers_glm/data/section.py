"""The two forms in which a configuration describes a dataset: keys directly, or under `dataset_config`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once
from mindformers_glm.registry import DATA_LOADERS, DATASETS, TOKENIZERS
from mindformers_glm.tokenizers import GLMTokenizer

C = TypeVar("C", bound=type)
_THREAD = "one background thread turns text into tokens, faster than training uses them"
_TUNING = "MindData tuning; there is no MindData pipeline here"
WITHOUT_EFFECT: dict[str, tuple[Any, str]] = {  # key of MindFormers -> (type, why it changes nothing)
    "input_columns": (list, "a batch always holds input_ids and labels"),
    "construct_args_key": (list, "a batch always holds input_ids and labels"),
    "num_parallel_workers": (int, _THREAD),
    "python_multiprocessing": (bool, _THREAD),
    "numa_enable": (bool, _THREAD),
    "auto_tune": (bool, _TUNING),
    "filepath_prefix": (str, _TUNING),
    "autotune_per_step": (int, _TUNING),
    "profile": (bool, "the trainer profiles"),
    "do_eval": (bool, "the trainer decides when to evaluate"),
}


def takes_section(cls: C) -> C:
    """The class with a constructor that also takes `dataset_config` and the keys without effect.

    Arguments given beside `dataset_config` win over its keys.
    """
    plain: Any = cls.__init__  # type: ignore[misc]  # the class itself is meant, no subclass
    known = list(inspect.signature(plain).parameters.values())

    @functools.wraps(plain)
    def __init__(self: Any, dataset_config: dict | None = None, **given: Any) -> None:
        section = dict(dataset_config or {})
        if section:
            faults = DATASETS.check({"type": cls.__name__, **section}, "dataset_config")
            if faults:
                raise faults[0]
        merged = {**section, **given}
        for name in [name for name in merged if name in WITHOUT_EFFECT]:
            if merged.pop(name):
                log_once(f"dataset key {name} has no effect here: {WITHOUT_EFFECT[name][1]}")
        plain(self, **merged)

    extra = {"dataset_config": dict | None, **{name: hint for name, (hint, _) in WITHOUT_EFFECT.items()}}
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in extra.items()]
    parameters = [known[0], *(item.replace(kind=keyword) for item in known[1:]), *added]
    made: Any = __init__
    made.__signature__ = inspect.Signature(parameters)
    made.__annotations__ = {**plain.__annotations__, **extra}
    cls.__init__ = made  # type: ignore[misc]
    return cls


def built_loader(data_loader: Any, key: str) -> Any:
    """The data loader that a mapping describes, or the object itself.

    Raises:
        ConfigError: there is none.
    """
    if data_loader is None:
        raise ConfigError(key, None, f"Name a data loader: {', '.join(DATA_LOADERS.names())}.")
    return DATA_LOADERS.build(data_loader, key) if isinstance(data_loader, Mapping) else data_loader


def built_tokenizer(tokenizer: Any, key: str) -> GLMTokenizer:
    """The tokenizer that a mapping describes, or the object itself.

    Raises:
        ConfigError: there is none.
    """
    if tokenizer is None:
        raise ConfigError(key, None, "Name a tokenizer: type and vocab_file.")
    return TOKENIZERS.build(tokenizer, key) if isinstance(tokenizer, Mapping) else tokenizer


def require_rows(loader: Any, kind: str, dataset: Any) -> None:
    """Raises ConfigError where a loader of files gives another kind of rows than the dataset makes samples of."""
    gives = getattr(loader, "gives", "rows")
    known = {
        "pairs": "KeyWordGenDataset",
        "conversations": "MultiTurnDataset",
        "documents": "CausalLanguageModelDataset",
    }
    if loader.encoded or gives == "rows" or gives in kind:
        return
    name = type(dataset).__name__
    fix = f"It gives {gives}, and {name} wants {kind}: set the type of the dataset task to {known[gives]}."
    raise ConfigError("data_loader.type", type(loader).__name__, fix)


def require(condition: bool, key: str, got: Any, fix: str) -> None:
    """Raises ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(key, got, fix)
