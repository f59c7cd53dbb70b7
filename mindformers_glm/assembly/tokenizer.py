"""A tokenizer, from the name, folder, file or YAML of its model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.load.model_files import model_files
from mindformers_glm.checkpoint.load.resolve import downloaded, hub_id_of, plain_name, row_of, sources_of
from mindformers_glm.checkpoint.load.run_folder import places_of, run_config
from mindformers_glm.checkpoint.load.source import is_whole_model
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import CONFIGS_DIR, DOWNLOAD_DIR
from mindformers_glm.config.vocabulary import FILE, beside, of_model
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.models.recognise import tokenizer_class
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers.files import SETTINGS, VOCABULARIES, vocabulary_in
from mindformers_glm.tokenizers.glm import GLMTokenizer

_YAML = (".yaml", ".yml")
_FETCHED = tuple((name, SETTINGS) for name in VOCABULARIES)


def load_tokenizer(
    name_or_path: str | Path, *, download: bool | str | None = None, revision: str | None = None, **changes: Any
) -> GLMTokenizer:
    """The tokenizer of a registered name, hub id, folder, run, weight file, sentencepiece file, or YAML.

    Raises:
        ConfigError, CheckpointError, DataError: there is none.
    """
    path = user_path(name_or_path)
    if path.suffix in _YAML:
        return _of_yaml(path, changes)
    if path.is_dir():
        return _of_folder(path, changes)
    if path.is_file() and (path.suffix == ".model" or path.name in VOCABULARIES):
        kind: Any = TOKENIZERS.get(changes.pop("type", None) or tokenizer_class(path.parent), "tokenizer.type")
        return kind.from_pretrained(str(path), **changes)
    if path.is_file():
        inside = model_files(path).tokenizer if is_whole_model(path) else None
        return _of_folder(inside, changes) if inside else _of_folder(path.parent, changes, weights=path)
    name = plain_name(name_or_path)
    here = downloaded(name)
    if here is not None and here.is_dir() and vocabulary_in(here) is not None:
        return _of_folder(here, changes)
    row, file = row_of(name, "name_or_path"), beside(name)
    if row is None:
        folder = _fetched(name, DOWNLOAD_DIR / "hub" / (name.replace("/", "--") + ".tokenizer"), download, revision)
        return _of_folder(folder, changes)
    if file is None:
        folder = _fetched(name, DOWNLOAD_DIR / row.family / f"{row.family}.tokenizer", download, revision)
        file = str(vocabulary_in(folder))
    spec = lookup(read_yaml(CONFIGS_DIR / row.yaml), "processor.tokenizer") or {}
    told = {key: spec[key] for key in ("chat_format",) if key in spec}
    return TOKENIZERS.build({"type": row.tokenizer_type, "vocab_file": file, **told, **changes}, "tokenizer")


def _of_yaml(path: Path, changes: dict[str, Any]) -> GLMTokenizer:
    spec = lookup(read_yaml(path), "processor.tokenizer")
    if spec is None:
        raise ConfigError(str(path), None, "The file has no section processor.tokenizer.")
    file = of_model(spec.get("vocab_file")) or spec.get("vocab_file") or beside(str(path))
    return TOKENIZERS.build({**spec, "vocab_file": file, **changes}, f"{path}: processor.tokenizer")


def _of_folder(folder: Path, changes: dict[str, Any], *, weights: Path | None = None) -> GLMTokenizer:
    """The tokenizer in a folder; for a run, beside its weights, or the one that its configuration names."""
    places = [folder, *places_of(weights or folder)]
    there = next((place for place in places if vocabulary_in(place) is not None), None)
    if there is not None:
        return _class_in(there).from_pretrained(str(there), **changes)
    yaml = run_config(weights or folder)
    if yaml is not None:
        return _of_yaml(yaml, changes)
    if weights is not None:
        raise ConfigError("tokenizer", None, f"No {FILE} lies beside {weights}: name one (--tokenizer).")
    return _class_in(folder).from_pretrained(str(folder), **changes)


def _class_in(folder: Path) -> Any:
    """The class of the tokenizer in a folder."""
    return TOKENIZERS.get(tokenizer_class(folder))


def _fetched(name: str, folder: Path, download: bool | str | None, revision: str | None) -> Path:
    """The folder of a tokenizer that was fetched, now or before.

    Raises:
        CheckpointError: it is not here, and it may not or cannot be fetched.
    """
    if vocabulary_in(folder) is not None:
        return folder
    repository = hub_id_of(name)
    sources = sources_of(download, repository)
    if not sources or repository is None:
        fix = f"Put the official {FILE} at {folder.parent / FILE}, or allow downloads (MINDFORMERS_GLM_DOWNLOAD=1)."
        raise CheckpointError(name, "its tokenizer is not on this machine", fix)
    from mindformers_glm.checkpoint.load.hub import download_model  # noqa: PLC0415 - its clients take a second to import

    *others, last = _FETCHED
    for only in others:
        with suppress(CheckpointError):  # a repository has one of them
            return download_model(repository, folder, source=sources, revision=revision, only=only)
    return download_model(repository, folder, source=sources, revision=revision, only=last)
