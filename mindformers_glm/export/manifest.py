"""What an export says about itself: `<name>_manifest.json` beside the graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import inside, read_json, user_path, write_text

SUFFIX = "_manifest.json"
FORMAT = 1
_HASHED_BYTES = 64 << 20  # files up to this size are read again before they are used
_PIECE = 1 << 24

Role = Literal["prefill", "increment"]
Adapter = Literal["none", "merged", "kept"]


class Input(BaseModel):
    """An input of the graph; None is a dimension that may have any length."""

    name: str
    shape: list[int | None]
    dtype: str


class File(BaseModel):
    """A file of the export, by its name in the folder."""

    name: str
    bytes: int
    sha256: str


class Graph(File):
    """A graph: MindIR of version 3 or 1, or what Lite's Converter made of it (`mind_ir` 0).

    `roles` are what it can be used for: one graph of any length serves both. `inputs` are in the graph's order.
    `exact` names operators that must not be quantised.
    """

    mind_ir: Literal[0, 1, 3]
    roles: list[Role]
    inputs: list[Input]
    quantization: str | None = None
    exact: list[str] = []

    @property
    def any_length(self) -> bool:
        """True when one graph takes any number of tokens."""
        return None in self.inputs[0].shape


class Fixed(BaseModel):
    """The lengths where graphs have fixed ones: tokens of the prefill graph, rows of the other, slots of a row."""

    tokens: int
    rows: int
    slots: int


class Vocabulary(File):
    """The tokenizer that belongs to the network."""

    type: str


class Manifest(BaseModel):
    """Everything a runtime needs to know. `weights` is None when each graph holds its own."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    format: int = FORMAT
    name: str
    versions: dict[str, str]
    network: dict[str, Any]
    cache_dtype: Literal["float32", "float16"]
    adapter: Adapter
    max_num_seqs: int = Field(validation_alias=AliasChoices("max_num_seqs", "max_rows"))  # the second until 0.2.0
    fixed: Fixed | None
    tokenizer: Vocabulary | None
    weights: File | None
    outputs: list[str]
    graphs: list[Graph]

    def save(self, folder: Path) -> Path:
        """Writes the file, whole or not at all, and returns its path."""
        path = folder / (self.name + SUFFIX)
        write_text(path, self.model_dump_json(indent=2) + "\n")
        return path


def describe(path: Path) -> dict[str, Any]:
    """The fields of File for a file on disk."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        CheckpointError: it cannot be read, or another version of this project wrote it.
    """
    try:
        values = read_json(path)
        if values.get("format") != FORMAT:
            raise CheckpointError(str(path), f"format {values.get('format')} is not known here", "Export again")
        manifest = Manifest(**values)
        for file in (*manifest.graphs, manifest.tokenizer, manifest.weights):
            if file is not None:
                _check_name(path, file)
        return manifest
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).splitlines()[0]
        raise CheckpointError(str(path), f"not a manifest of an export ({reason})", "Export again") from error


def find_manifest(path: str | Path) -> tuple[Manifest, Path, Graph | None]:
    """The manifest of a folder, a manifest file or an exported file, its folder, and that file's entry.

    An exported file may be named with or without `_graph`, as MindFormers users do.

    Raises:
        CheckpointError: nothing there, nothing exported by this project, or several exports in one folder.
    """
    path = user_path(path)
    if path.name.endswith(SUFFIX) and path.is_file():
        return read_manifest(path), path.parent, None
    folder = path if path.is_dir() else path.parent
    manifests = sorted(folder.glob("*" + SUFFIX))
    if path.is_dir():
        return _only(path, manifests), folder, None
    names = spellings(path.name)
    for file in manifests:
        manifest = read_manifest(file)
        for graph in manifest.graphs:
            if graph.name in names:
                return manifest, folder, graph
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(
            str(path), "there is no such file", "Give the folder or a file that tools/export.py wrote"
        )
    fault = "no manifest describes this file, so its inputs are not known"
    raise CheckpointError(str(path), fault, "Export the network with tools/export.py; graphs of MindFormers do not fit")


def spellings(name: str) -> Sequence[str]:
    """A file's name with and without `_graph` before its suffix."""
    stem, dot, suffix = name.rpartition(".")
    other = stem.removesuffix("_graph") if stem.endswith("_graph") else stem + "_graph"
    return name, f"{other}{dot}{suffix}"


def check_file(folder: Path, file: File) -> Path:
    """The path of a file of the export.

    Raises:
        CheckpointError: it is missing, or is not what was exported.
    """
    path = folder / file.name
    if not path.is_file():
        raise CheckpointError(str(path), "this file of the export is missing", "Copy the whole folder, or export again")
    size = path.stat().st_size
    if size != file.bytes:
        raise CheckpointError(str(path), f"{size:,} bytes and the manifest says {file.bytes:,}", "Copy it again")
    if size <= _HASHED_BYTES and sha256(path) != file.sha256:
        raise CheckpointError(str(path), "its content is not what was exported (SHA-256)", "Copy it again")
    return path


def _check_name(path: Path, file: File) -> None:
    """Passes when a file of the export lies in its folder, weights in one more folder of it."""
    *above, name = file.name.split("/")
    folder = path.parent
    for part in above[:1]:
        folder = inside(folder, part, told_by=path)
    inside(folder, "/".join([*above[1:], name]), told_by=path)


def _only(folder: Path, manifests: Sequence[Path]) -> Manifest:
    if not manifests:
        raise CheckpointError(str(folder), "no export in this folder", "Give the folder that tools/export.py wrote to")
    if len(manifests) > 1:
        names = ", ".join(file.name for file in manifests)
        raise CheckpointError(str(folder), f"several exports in one folder ({names})", "Name the manifest or a graph")
    return read_manifest(manifests[0])
