"""Weights of any readable form under our names, read one tensor at a time: `read_weights(path)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindformers_glm.checkpoint.formats.blocks import BLOCK_BYTES, array_blocks, file_blocks
from mindformers_glm.checkpoint.formats.dtypes import DTYPES, typed
from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors
from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.checkpoint.load.folders import check_index, files_of, index_of, refuse_divided, snapshot
from mindformers_glm.checkpoint.load.names import (
    Kind,
    Meaning,
    is_adapter,
    is_projected_prefix,
    is_reordered,
    meaning,
    separate_adapters,
)
from mindformers_glm.checkpoint.load.packing import unpacked
from mindformers_glm.checkpoint.load.separate_lora import with_joined_lora
from mindformers_glm.errors import CheckpointError, listed
from mindformers_glm.files import open_regular, refuse_stand_in
from mindformers_glm.models.family import imported
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import qkv_parts

_MODELS = {  # first bytes of files that are a whole model -> what opens them, imported when there is one
    b"ggml": "mindformers_glm.checkpoint.formats.chatglm_cpp:open_chatglm_cpp",
    b"GGUF": "mindformers_glm.checkpoint.formats.gguf:open_gguf",
}
_OTHER_FILES = {  # first bytes -> what users take for weights
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"%PDF": "a PDF file",
    b"\x7fELF": "a program",
}


class Piece(NamedTuple):
    """A tensor as one file holds it: a whole weight, or a block of its rows."""

    file: TensorFile
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return self.file.entries[self.name].shape

    @property
    def dtype(self) -> str:
        """Type in the file."""
        return self.file.entries[self.name].dtype


class WeightSource:
    """Tensors of one checkpoint under our names, in the order of the files; data is read on request.

    `packing` says what linear weights were where the files have integers, which are floats here ("official int4",
    "gptq int4", "awq int4", "gguf Q4_0"). `format` is ckpt, safetensors, bin, gguf or chatglm.cpp.
    `naming` says whose names the files use: hf (official), mf10
    (MindFormers to 1.1, and ours), mf12 (1.2-1.3), mf15 (1.5 and later, separate query, key, value, gate and up),
    native (GlmForCausalLM of transformers), mcore (Mcore of MindFormers 1.5 to 2.1);
    empty when the names are the same in all. `state` lists optimizer and
    counter entries, `ignored` gives the reason for each entry that a network does not need, `unknown` lists the names
    nobody knows.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[TensorFile],
        *,
        rearranged: NetworkConfig | None = None,
        packing: str = "",
    ) -> None:
        self.path, self.files, self.rearranged, self.packing = path, list(files), rearranged, packing
        self.format = files[0].format if files else ""
        self.metadata = {key: value for file in files for key, value in file.metadata.items()}
        self.ignored: dict[str, str] = {}
        self.unknown: list[str] = []
        self.state: dict[str, Piece] = {}
        found: dict[str, list[Piece | None]] = {}
        namings: set[str] = set()
        for file in files:
            for name in file.entries:
                read = meaning(name)
                self._place(read, Piece(file, name), found)
                namings.add(read.naming)
        self.naming = "mf15" if "mf15" in namings else "".join(sorted(namings - {""}))
        self._pieces = self._complete(found)

    @property
    def official_bits(self) -> int:
        """4 or 8 where linear weights were official integers."""
        return {"official int4": 4, "official int8": 8}.get(self.packing, 0)

    @property
    def names(self) -> list[str]:
        """Our names of all weights and adapter parameters."""
        return list(self._pieces)

    @property
    def kind(self) -> str:
        """What the files hold: "weights", "adapter" (nothing but LoRA or a prefix), or "weights and adapter"."""
        adapters = sum(is_adapter(name) for name in self._pieces)
        if adapters == len(self._pieces):
            return "adapter" if adapters else "nothing"
        return "weights and adapter" if adapters else "weights"

    def __contains__(self, name: object) -> bool:
        return name in self._pieces

    def pieces(self, name: str) -> list[Piece]:
        """The stored tensors that make up a weight, in the order of its rows."""
        return list(self._pieces[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape under our name, fused parts together."""
        shapes = [piece.shape for piece in self._pieces[name]]
        return shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def dtype(self, name: str) -> str:
        """Type in the file."""
        return self._pieces[name][0].dtype

    def read(self, name: str) -> np.ndarray:
        """The tensor, in the type of the file; bfloat16 as MindSpore's NumPy type."""
        return typed(self.read_bits(name), self.dtype(name))

    def read_bits(self, name: str) -> np.ndarray:
        """The tensor's bits in a type that NumPy knows (see dtypes.py)."""
        blocks = [piece.file.read_bits(piece.name) for piece in self._pieces[name]]
        whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        if self.rearranged is not None and is_reordered(name):
            return reorder_rows(whole, self.rearranged, official_row_order)
        return whole

    def mapped(self, name: str) -> np.ndarray | None:
        """The tensor's bits where they lie in its file, read-only; None where they must be put together or changed."""
        pieces = self._pieces[name]
        if len(pieces) > 1 or (self.rearranged is not None and is_reordered(name)):
            return None
        return pieces[0].file.mapped_bits(pieces[0].name)

    def panels(self, name: str) -> np.ndarray | None:
        """Integers or their scales in the order of the kernels, where they lie in a file so; None for others."""
        pieces = self._pieces[name]
        found = pieces[0].file.panels.get(pieces[0].name)
        if found is None or len(pieces) > 1 or (self.rearranged is not None and is_reordered(name)):
            return None
        return found()

    def scales(self, name: str) -> np.ndarray | None:
        """float16 (rows, groups) where the file has a matrix as whole numbers times these; None for others."""
        pieces = self._pieces[name]
        made = [make for piece in pieces if (make := piece.file.scales.get(piece.name))]
        if len(made) < len(pieces) or (self.rearranged is not None and is_reordered(name)):
            return None
        found = [make() for make in made]
        return np.concatenate(found) if len({scale.shape[1] for scale in found}) == 1 else None

    def integers(self, name: str) -> Callable[[int, int], np.ndarray] | None:
        """What gives rows [start, stop) of the whole numbers int8 (rows, columns) that `scales` belong to; None for
        others. It may be called by several threads at a time.
        """
        return self._whole_numbers(name, "integers")

    def halves(self, name: str) -> Callable[[int, int], np.ndarray] | None:
        """The same of 4 bits, two in a byte as ops/quantized.py says; None where a file has them in another order."""
        return self._whole_numbers(name, "halves")

    def _whole_numbers(self, name: str, kind: str) -> Callable[[int, int], np.ndarray] | None:
        pieces = self._pieces[name]
        made = [rows for piece in pieces if (rows := getattr(piece.file, kind).get(piece.name))]
        if len(made) < len(pieces) or (self.rearranged is not None and is_reordered(name)):
            return None
        ends = np.cumsum([piece.shape[0] for piece in pieces]).tolist()

        def rows_of(start: int, stop: int) -> np.ndarray:
            parts = []
            for rows, piece, end in zip(made, pieces, ends, strict=True):
                begin = end - piece.shape[0]
                first, last = max(start, begin), min(stop, end)
                if first < last:
                    parts.append(rows(first - begin, last - begin))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return rows_of

    def blocks(self, name: str, start: int, stop: int, *, block_bytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """Rows [start, stop) as flat arrays of bits, a block at a time; each is valid until the second next one."""
        pieces = self._pieces[name]
        shape = self.shape(name)
        if not shape or (self.rearranged is not None and is_reordered(name)):
            yield from array_blocks(self.read_bits(name), start, stop, block_bytes)
            return
        parts, position = [], 0
        for piece in pieces:
            first, last = max(start - position, 0), min(stop - position, piece.shape[0])
            if first < last:
                parts.append((piece, first, last))
            position += piece.shape[0]
        if any(piece.file.entries[piece.name].strides is not None for piece in pieces):
            for piece, first, last in parts:
                yield from _rows(piece, first, last, block_bytes)
            return
        runs = []
        for piece, first, last in parts:
            row_bytes = piece.file.entries[piece.name].size // max(piece.shape[0], 1)
            spans = piece.file.spans(piece.name, first * row_bytes, last * row_bytes)
            runs += [(piece.file.path, span) for span in spans]
        yield from file_blocks(runs, DTYPES[self.dtype(name)].storage, block_bytes)

    def read_state(self, name: str) -> np.ndarray:
        """An optimizer or counter entry."""
        piece = self.state[name]
        return typed(piece.file.read_bits(piece.name), piece.dtype)

    def _place(self, read: Meaning, piece: Piece, found: dict[str, list[Piece | None]]) -> None:
        if read.kind is Kind.IGNORED:
            self.ignored[piece.name] = read.reason
        elif read.kind is Kind.UNKNOWN:
            self.unknown.append(piece.name)
        else:
            if read.kind is Kind.STATE:
                taken = read.ours in self.state
                self.state[read.ours] = piece
            else:
                row = found.setdefault(read.ours, [None] * read.parts)
                taken = len(row) != read.parts or row[read.part] is not None
                row[min(read.part, len(row) - 1)] = piece
            if taken:
                raise CheckpointError(
                    str(self.path),
                    f"{piece.name!r} in {piece.file.path.name} is there a second time",
                    "Keep one of the files, or name the one to load.",
                )

    def _complete(self, found: dict[str, list[Piece | None]]) -> dict[str, list[Piece]]:
        whole = {name: [piece for piece in row if piece is not None] for name, row in found.items()}
        holes = [name for name, row in found.items() if len(whole[name]) < len(row)]
        if holes:
            raise CheckpointError(
                str(self.path),
                f"parts of {len(holes)} weights are missing: {listed(holes)}",
                "The file is incomplete: convert it again from its source.",
            )
        return whole


def read_weights(path: str | Path, *, rank: int = 0, rearranged: NetworkConfig | None = None) -> WeightSource:
    """The weights in a file or folder, not yet read.

    A file: .safetensors, MindSpore .ckpt, PyTorch .bin, or the index of shards. A folder: official or ours (index or
    single file), PEFT adapter, a folder of one .ckpt, or `rank_N` folders, of which `rank` chooses one and its newest
    step is taken. `rearranged`: the shape of the network when query and key rows were stored evens first
    (MindFormers' use_rearrange_rope, which the file itself does not tell).

    Raises:
        CheckpointError: nothing readable there, a damaged file, or a shard that is missing.
    """
    path = snapshot(Path(path)) if os.path.exists(path) else Path(path)
    files = files_in(path, rank=rank)
    if not any(file.entries for file in files):
        raise CheckpointError(str(path), "it holds no tensors", "Give a file of weights.")
    index = index_of(path)
    if index is not None:
        check_index(index, files)
    files, packing = unpacked(path, files)
    return WeightSource(path, with_joined_lora(files), rearranged=rearranged, packing=packing)


def files_in(path: str | Path, *, rank: int = 0) -> list[TensorFile]:
    """The tables of the files that hold the weights of a path.

    Raises:
        CheckpointError: as `read_weights`.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, no error for a name that no file can have
        raise CheckpointError(str(path), "there is no such file or folder", "Check the path of the checkpoint.")
    path = snapshot(path)
    return [open_file(file) for file in files_of(path, rank=rank)]


def is_whole_model(path: Path) -> bool:
    """True for a file that holds its configuration (and mostly its tokenizer) itself."""
    with open_regular(path) as file:
        return file.read(4) in _MODELS


def open_file(path: Path) -> TensorFile:
    """The table of one file, its format told by its first bytes."""
    refuse_divided(path)
    with open_regular(path) as file:
        start = file.read(256)
    refuse_stand_in(path, start)
    if start[8:9] == b"{":
        return open_safetensors(path)
    for magic, opened in _MODELS.items():
        if start.startswith(magic):
            return imported(opened)(path)
    for magic, name in _OTHER_FILES.items():
        if start.startswith(magic):
            fault = f"it is {name}, and not a file of weights that is read here"
            raise CheckpointError(str(path), fault, "Give .safetensors, a MindSpore .ckpt or a file of torch.save.")
    from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt  # noqa: PLC0415 - where one is read
    from mindformers_glm.checkpoint.formats.torch_bin import is_torch_file, open_torch_bin  # noqa: PLC0415

    return open_torch_bin(path) if is_torch_file(start) else open_ckpt(path)


def _rows(piece: Piece, first: int, last: int, block_bytes: int) -> Iterator[np.ndarray]:
    """Rows of a tensor that is computed, or stored in another order, as flat arrays."""
    entry = piece.file.entries[piece.name]
    if piece.name not in piece.file.computed:
        yield from array_blocks(piece.file.read_bits(piece.name), first, last, block_bytes)
        return
    step = max(1, block_bytes * entry.shape[0] // max(entry.size, 1))
    for start in range(first, last, step):
        yield piece.file.read_rows(piece.name, start, min(start + step, last)).reshape(-1)


def official_row_order(block: np.ndarray, kv_channels: int) -> np.ndarray:
    """Rows of a query or key weight or bias back in pairs, from evens-then-odds within each head."""
    heads = block.reshape(-1, 2, kv_channels // 2, *block.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(block.shape)


def rearranged_row_order(block: np.ndarray, kv_channels: int) -> np.ndarray:
    """The inverse of `official_row_order`."""
    heads = block.reshape(-1, kv_channels // 2, 2, *block.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(block.shape)


def reorder_rows(whole: np.ndarray, config: NetworkConfig, order: Callable[..., np.ndarray]) -> np.ndarray:
    """What `is_reordered` names with the rows of query and key in another order within each head."""
    query, key, _ = qkv_parts(config)
    blocks = [order(whole[:query], config.kv_channels), order(whole[query : query + key], config.kv_channels)]
    return np.concatenate([*blocks, whole[query + key :]])


def check_adapter_kinds(place: str | Path, unknown: Sequence[str]) -> None:
    """Passes when no entry among the unknown ones belongs to an adapter that no network here can hold.

    Raises:
        CheckpointError: LoRA on separate query, key, value, gate or up layers, or a projected prefix.
    """
    layers = separate_adapters(unknown)
    if layers:
        raise CheckpointError(
            str(place),
            f"it has LoRA on {len(layers)} separate layers ({listed(layers, 3)}), which are one layer here",
            "Merge it where it was trained, or train it with qkv_concat: True and mlp_concat: True.",
        )
    if is_projected_prefix(unknown):
        raise CheckpointError(
            str(place),
            "it is a projected prefix (prefix_projection: True), and prefixes here are tables",
            "Compute its table where it was trained and keep that alone, or train with prefix_projection: False.",
        )
