"""Which files a path means: a file, a folder, a glob, entries of LLaMA-Factory's dataset_info.json."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.data.source import SUFFIXES, data_file, option_of, suffix_of
from mindformers_glm.errors import DataError
from mindformers_glm.files import parse_json, read_small, user_path

INFO = "dataset_info.json"
_INFO_BYTES = 1 << 24
_NOT_DATA = (INFO, "state.json", "dataset_dict.json", "package.json", "config.json", "manifest.json")
_ALPACA = ("prompt", "query", "response", "system", "history")
_COLUMNS = ("messages", "system", "tools")
_TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")


class Source(NamedTuple):
    """A data file; `loader` are the arguments that dataset_info.json gives it, {} where it says nothing."""

    file: Path
    loader: dict[str, Any]


def sources(path: str | Path, phase: str, *, names: str | list[str] | None = None) -> list[Source]:
    """The data files at a path, in the order of their names. Hidden files are left out.

    `names` are entries of the dataset_info.json in the folder `path`, separated by commas.

    Raises:
        DataError: nothing is there, a folder holds no data file, or an entry is unknown or no local file.
    """
    place = user_path(str(path or ""))
    if names:
        wanted = names.split(",") if isinstance(names, str) else names
        return [_entry(place, name.strip()) for name in wanted]
    try:
        is_folder, exists = place.is_dir(), place.exists()
    except (OSError, ValueError):
        is_folder = exists = False
    if path and is_folder:
        found = [file for file in sorted(place.rglob("*")) if _is_data(file)]
        if not found:
            fault = f"the folder holds no data file ({', '.join(SUFFIXES)}, also .gz)"
            raise DataError(str(place), fault, f"Name a file: {option_of(phase)} FILE")
    elif path and not exists and glob.has_magic(str(place)):
        found = sorted(Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file())
        if not found:
            raise DataError(str(place), "no file matches this pattern", f"Name a file: {option_of(phase)} FILE")
    else:
        found = [data_file(path, phase)]
    return [Source(data_file(file, phase), _said_of(file)) for file in found]


def _is_data(file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.parts[-2:])
    return not hidden and file.name not in _NOT_DATA and suffix_of(file) in SUFFIXES and file.is_file()


def _said_of(file: Path) -> dict[str, Any]:
    """What the dataset_info.json beside a file says of it."""
    if not (file.parent / INFO).is_file():
        return {}
    for name, entry in _read(file.parent).items():
        if isinstance(entry, Mapping) and entry.get("file_name") == file.name:
            return _arguments(entry, f"{file.parent / INFO}: {name}")
    return {}


def _entry(folder: Path, name: str) -> Source:
    table = _read(folder)
    place = f"{folder / INFO}: {name}"
    entry = table.get(name)
    if not isinstance(entry, Mapping):
        raise DataError(place, "there is no such entry", f"Use one of {', '.join(list(table)[:20])}")
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        raise DataError(place, "it names no local file (file_name)", "Download the data and give its file_name")
    file = folder / file_name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise DataError(place, f"{file_name} lies outside this folder", "Move the file into it")
    return Source(data_file(file, "train"), _arguments(entry, place))


def _read(folder: Path) -> Mapping[str, Any]:
    file = folder / INFO
    try:
        table = parse_json(read_small(file, limit=_INFO_BYTES))
    except ValueError as error:  # CheckpointError is one
        raise DataError(str(file), f"cannot be read ({error})", "Repair it, or move it out of the way") from error
    return table if isinstance(table, Mapping) else {}


def _arguments(entry: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The arguments of our loader for an entry, {} where it says nothing that its columns do not."""
    if entry.get("ranking"):
        fix = "Keep the chosen replies as `output`, or take another entry"
        raise DataError(place, "these are preferences (ranking), for DPO, which is not trained here", fix)
    form, columns, tags = entry.get("formatting", "alpaca"), entry.get("columns"), entry.get("tags")
    if form not in ("alpaca", "sharegpt"):
        raise DataError(place, f"formatting {form!r} is unknown", "Use alpaca or sharegpt")
    if columns is None and tags is None:
        return {}
    columns = columns if isinstance(columns, Mapping) else {}
    if form == "alpaca":
        given = {name: columns[name] for name in _ALPACA if isinstance(columns.get(name), str)}
        return {"type": "AlpacaDataLoader", "columns": given, "only": True} if given else {}
    given = {name: columns[name] for name in _COLUMNS if isinstance(columns.get(name), str)}
    tags = {name: value for name in _TAGS if isinstance(value := (tags or {}).get(name), str)}
    return {"type": "ShareGPTDataLoader", "columns": given, "tags": tags}
