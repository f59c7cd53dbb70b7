"""Which sentencepiece file a tokenizer section means when it names none, or names a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.names import ASSETS, DOWNLOAD_DIR, MODEL_NAMES

FILE = "tokenizer.model"
FILES = (FILE, "tokenizer.json")  # of a model: sentencepiece or tiktoken, or Hugging Face's; the first counts
_PLACES = ("processor.tokenizer", "train_dataset.tokenizer", "eval_dataset.tokenizer")


def fill_vocabularies(values: Mapping[str, Any], weights: str | None) -> None:
    """Gives every tokenizer of the file its `vocab_file`, where it can be found.

    A model name stands for the file that comes with the model. A tokenizer without `vocab_file` takes the one
    beside the weights, else the one that another tokenizer of the file names. What is not found stays as it is, and
    the tokenizer says so.
    """
    tokenizers = [spec for place in _PLACES if isinstance(spec := lookup(values, place), dict)]
    for spec in tokenizers:
        spec["vocab_file"] = of_model(spec.get("vocab_file")) or spec.get("vocab_file")
    named = next((spec["vocab_file"] for spec in tokenizers if spec["vocab_file"]), None)
    for spec in tokenizers:
        spec["vocab_file"] = spec["vocab_file"] or beside(weights) or named
        if spec["vocab_file"] is None:
            del spec["vocab_file"]


def of_model(name: Any) -> str | None:
    """The vocabulary of a registered model: shipped with the package, or downloaded earlier."""
    if not isinstance(name, str) or name not in MODEL_NAMES:
        return None
    places = [folder / file for folder in (ASSETS / name, DOWNLOAD_DIR / MODEL_NAMES[name].family) for file in FILES]
    return next((str(place) for place in places if place.is_file()), None)


def shipped() -> list[str]:
    """The models whose vocabulary comes with the package."""
    return sorted(name for name in MODEL_NAMES if (ASSETS / name).is_dir())


def beside(weights: Any) -> str | None:
    """The vocabulary of a model name, in a folder of weights, or in the folder of a weight file."""
    if not weights or not isinstance(weights, str):
        return None
    path = Path(weights)  # os.path answers False where the text can be no path at all
    folder = path if os.path.isdir(path) else path.parent if os.path.isfile(path) else None
    places = [] if folder is None else [folder / file for file in FILES]
    return of_model(weights) or next((str(place) for place in places if place.is_file()), None)
