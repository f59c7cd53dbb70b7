"""Sparse weights of 8 bits, compressed: four bits for nearly every number, and a list of those that need eight.

The vendor's compressed files are not public; this form is the project's own: compress_R.npz with, for each layer,
`NAME|nibbles` uint8 (N, ceil(K / 2)): column 2j low, 2j + 1 high, two's complement; `NAME|places` uint32 and
`NAME|values` int8 of the outliers in the flat weight; `NAME|shape`.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from mindformers_glm.checkpoint.formats.torch_npy import read_table
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import atomic_write, user_path

_MOST_OUTLIERS = 0.05


def write_compressed(folder: str | Path, save_path: str | Path, *, rank: int = 0) -> tuple[Path, int, int]:
    """Compresses quant_weight.npy of a folder (or quant_weightR.npy of a tpN folder); the path, bytes before and after.

    Raises:
        CheckpointError: there are no weights, they are not sparse, or the output is there already.
    """
    place = user_path(folder)
    file = next(
        (place / name for name in (f"quant_weight{rank}.npy", "quant_weight.npy") if (place / name).is_file()), None
    )
    if file is None:
        raise CheckpointError(
            str(place), "it has no quant_weight.npy", "Name a folder of export_quant_weight.py --sparse."
        )
    target = user_path(save_path) / f"compress_{rank}.npz"
    if target.exists():
        raise CheckpointError(str(target), "it is there already", "Name another --save_path.")
    arrays: dict[str, np.ndarray] = {}
    before = 0
    for name, weight in read_table(file).items():
        if weight.dtype != np.int8 or weight.ndim != 2:
            raise CheckpointError(str(file), f"{name} is no int8 (N, K)", "Name a folder of export_quant_weight.py.")
        before += weight.size
        arrays |= {f"{name}|{key}": value for key, value in compress(weight, name=name, place=str(file)).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, "wb") as out:
        out.write(buffer.getbuffer())
    return target, before, target.stat().st_size


def read_compressed(path: str | Path) -> dict[str, np.ndarray]:
    """The int8 weights of a compressed file, exactly.

    Raises:
        CheckpointError: it cannot be read, or its parts do not fit together.
    """
    place = user_path(path)
    try:
        _check_members(place)
        with np.load(place, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    # zipfile's NotImplementedError: packed in a way that it does not know
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CheckpointError(str(place), "it is no compressed file", "Write it again.") from error
    names = [name.removesuffix("|shape") for name in arrays if name.endswith("|shape")]
    try:
        return {name: expand({key: arrays[f"{name}|{key}"] for key in _KEYS}) for name in names}
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(str(place), "its parts do not fit together", "Write it again.") from error


def _check_members(place: Path) -> None:
    """Passes when each array is stored as it is and as large as its header says, before any memory is taken.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: otherwise.
    """
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > place.stat().st_size:
                raise ValueError("compressed")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise ValueError("size")


_KEYS = ("nibbles", "places", "values", "shape")


def compress(weight: np.ndarray, *, name: str = "weight", place: str = "weights") -> dict[str, np.ndarray]:
    """The arrays of a weight int8 (N, K).

    Raises:
        CheckpointError: more than one number in twenty needs eight bits.
    """
    rows, columns = weight.shape
    outliers = np.flatnonzero((weight < -8) | (weight > 7))
    if len(outliers) > _MOST_OUTLIERS * weight.size:
        fault = f"{len(outliers) / weight.size:.0%} of {name} need 8 bits: these weights are not sparse"
        raise CheckpointError(place, fault, "Export them with --sparse.")
    small = np.where((weight < -8) | (weight > 7), 0, weight).astype(np.uint8) & 15
    padded = np.zeros((rows, columns + columns % 2), np.uint8)
    padded[:, :columns] = small
    return {
        "nibbles": padded[:, ::2] | padded[:, 1::2] << 4,
        "places": outliers.astype(np.uint32),
        "values": weight.reshape(-1)[outliers],
        "shape": np.array(weight.shape, np.int64),
    }


def expand(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The weight that `compress` took.

    Raises:
        ValueError, IndexError: the arrays do not fit together.
    """
    rows, columns = (int(size) for size in arrays["shape"])
    nibbles = arrays["nibbles"]
    if nibbles.shape != (rows, -(-columns // 2)) or nibbles.dtype != np.uint8:
        raise ValueError("nibbles")
    both = np.stack([nibbles & 15, nibbles >> 4], -1).reshape(rows, -1)[:, :columns].astype(np.int8)
    weight = np.where(both > 7, both - 16, both).astype(np.int8)
    weight.reshape(-1)[arrays["places"]] = arrays["values"]
    return weight
