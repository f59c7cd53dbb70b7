"""Which family a name, and which tokenizer a folder, belongs to: asked here by everyone, so that all answer alike.

The vocabularies of ChatGLM2 and ChatGLM3 are one file, so the file cannot tell; what lies beside it can. What tells a
family is stated where it is registered (`Family.marks`, `words`, `context`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.pretrained import TOKENIZED
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.family import FAMILIES, Family
from mindformers_glm.registry import SERVICES, TOKENIZERS
from mindformers_glm.tokenizers import files
from mindformers_glm.tokenizers.formats import chat_format_in
from mindformers_glm.tokenizers.glm import GLMTokenizer

_OF_A_RUN = re.compile(r"(checkpoint|global_step|step|epoch)[-_]?\d+|[0-9a-f]{40}|snapshots|\.?", re.IGNORECASE)
_OFFICIAL = "ChatGLMTokenizer"  # the class that the files of ChatGLM2 and of ChatGLM3 name alike
_CODE = "tokenization_chatglm.py"
Question = Callable[[Path, dict[str, Any], dict[str, Any]], Family | None]


def families_named(path: Any) -> list[Family]:
    """The families that the last part of a path or name names, in the order in which they are asked.

    Folders that a run made below its model (checkpoint-500, a snapshot's hash) are no part of the name; folders above
    it are none either: a ChatGLM2 below `ChatGLM3/models/` is a ChatGLM2.
    """
    parts = [part for part in re.split(r"[/\\]+", str(path or "")) if not _OF_A_RUN.fullmatch(part)]
    last = parts[-1].lower() if parts else ""
    return [family for family in FAMILIES if any(re.search(mark, last) for mark in family.marks)]


def family_named(path: Any) -> Family | None:
    """The family that a path or name names; None when it names none, or several of different tokenizers.

    Of several with one tokenizer (GLM-4-9B-0414) it is the last, which is the most particular.
    """
    found = families_named(path)
    return found[-1] if len({family.tokenizer for family in found}) == 1 else None


def tokenizer_from(path: str | Path) -> GLMTokenizer:
    """The tokenizer of a folder, file or name of a model that is here, of the class that its files tell.

    Raises:
        DataError: no vocabulary there.
        ConfigError: the folder belongs to another tokenizer.
    """
    vocab_file, _ = files.load(path)
    kind: Any = TOKENIZERS.get(tokenizer_class(vocab_file.parent), "tokenizer_class")
    return kind.from_pretrained(path)


def tokenizer_class(folder: str | Path) -> str:
    """Name of the registered class of the tokenizer in a folder.

    Its files are asked in turn: a YAML of ours, the class and the chat template of tokenizer_config.json, the official
    Python file (read, never run), the names in the configurations, the folder's own name, the context length. A folder
    where none of these tells is taken for ChatGLM2's, and a warning says so.

    Raises:
        DataError: a file is no JSON.
    """
    folder = Path(folder)
    told = _told_by_yaml(folder)
    if told:
        return told
    vocabulary = files.vocabulary_in(folder)
    if vocabulary is not None and files.kind(vocabulary) != "sentencepiece":  # whatever class of transformers is named
        return next(family.tokenizer for family in FAMILIES if family.vocabulary == "byte pairs")
    settings = _object(folder / files.SETTINGS)
    kind = settings.get("tokenizer_class", _OFFICIAL)
    if kind != _OFFICIAL:
        return str(kind)
    config = _object(folder / "config.json")
    for ask in _QUESTIONS:
        family = ask(folder, settings, config)
        if family is not None:
            return family.tokenizer
    if config or settings:
        logger.warning(
            "%s: nothing here says whether the tokenizer is ChatGLM2's or ChatGLM3's, ChatGLM2's is taken. "
            'If it is the other, write "tokenizer_class": "ChatGLM3Tokenizer" into %s.',
            folder,
            files.SETTINGS,
        )
    else:
        log_once(f"{folder}: taken for ChatGLM2's tokenizer; type='ChatGLM3Tokenizer' takes it for the other.")
    return FAMILIES.default().tokenizer


def _told_by_yaml(folder: Path) -> str | None:
    yaml = folder / "config.yaml"
    return lookup(read_yaml(yaml), "processor.tokenizer.type") if yaml.is_file() else None


def _by_template(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> Family | None:
    keys = ("chat_template", "additional_special_tokens", "added_tokens_decoder")
    texts = [*(settings.get(key) for key in keys), files.text(folder / files.TEMPLATE)]
    return _by_words("".join(map(str, filter(None, texts))))


def _by_code(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> Family | None:
    return _by_words(files.text(folder / _CODE))


def _by_name(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> Family | None:
    names: Iterator[Any] = iter((settings.get("name_or_path"), config.get("_name_or_path"), folder.resolve()))
    found = (family for family in map(family_named, names) if family is not None)
    return next((family for family in found if family.vocabulary == "sentencepiece"), None)


def _by_context(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> Family | None:
    return next((family for family in FAMILIES if family.context(config)), None)


_QUESTIONS: tuple[Question, ...] = (_by_template, _by_code, _by_name, _by_context)


def _by_words(text: str) -> Family | None:
    return next((family for family in FAMILIES if any(word in text for word in family.words)), None)


def _object(path: Path) -> dict[str, Any]:
    return files.read_settings(path) if path.is_file() else {}


def _told(folder: str) -> dict[str, str]:
    """The section of the tokenizer in the folder of a model."""
    vocabulary = files.vocabulary_in(Path(folder))
    section = {"type": tokenizer_class(folder), "vocab_file": str(vocabulary)}
    told = vocabulary and chat_format_in(folder, byte_pairs=files.kind(vocabulary) != "sentencepiece")
    return {**section, "chat_format": told} if told else section


SERVICES[TOKENIZED] = _told
