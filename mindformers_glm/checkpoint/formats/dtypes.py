"""Number types by one name, as each file format spells them, and exact conversion between them.

bfloat16 has no NumPy type of its own. Readers carry it as MindSpore's NumPy type (`mindspore.Tensor` takes
it as it is); the bits of float16 and bfloat16 pass through here unchanged when nothing is converted.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels.memory import small_pages
from mindformers_glm.threads import side_by_side


class Dtype(NamedTuple):
    """One number type: our name, the NumPy type that holds its bits, and its name in other formats."""

    name: str
    storage: np.dtype
    safetensors: str
    mindspore: str
    torch: str  # class of the storage inside a .bin


_ROWS = (
    Dtype("float64", np.dtype("<f8"), "F64", "Float64", "DoubleStorage"),
    Dtype("float32", np.dtype("<f4"), "F32", "Float32", "FloatStorage"),
    Dtype("float16", np.dtype("<f2"), "F16", "Float16", "HalfStorage"),
    Dtype("bfloat16", np.dtype("<u2"), "BF16", "BFloat16", "BFloat16Storage"),
    Dtype("int64", np.dtype("<i8"), "I64", "Int64", "LongStorage"),
    Dtype("int32", np.dtype("<i4"), "I32", "Int32", "IntStorage"),
    Dtype("int16", np.dtype("<i2"), "I16", "Int16", "ShortStorage"),
    Dtype("int8", np.dtype("i1"), "I8", "Int8", "CharStorage"),
    Dtype("uint8", np.dtype("u1"), "U8", "UInt8", "ByteStorage"),
    Dtype("uint16", np.dtype("<u2"), "U16", "UInt16", ""),
    Dtype("uint32", np.dtype("<u4"), "U32", "UInt32", ""),
    Dtype("uint64", np.dtype("<u8"), "U64", "UInt64", ""),
    Dtype("bool", np.dtype("?"), "BOOL", "Bool", "BoolStorage"),
)
DTYPES = {row.name: row for row in _ROWS}
BY_SAFETENSORS = {row.safetensors: row for row in _ROWS}
BY_MINDSPORE = {row.mindspore: row for row in _ROWS}
BY_TORCH = {row.torch: row for row in _ROWS if row.torch}
FLOATS = ("float64", "float32", "float16", "bfloat16")
_INFINITY = {"float64": 0x7FF << 52, "float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}  # its bits
_BLOCK = 1 << 16  # numbers that fit into a CPU's cache with what is computed from them
_LARGE = 1 << 18  # from so many on, blocks are converted side by side
_MANY = 1 << 14  # from so many on, halves are looked up
_SHORT = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16"}


def float_name(name: str, key: str = "dtype") -> str:
    """The full name of a float type, from that name or a short one (fp16, bf16, fp32).

    Raises:
        ConfigError: not a float type.
    """
    full = _SHORT.get(name, name)
    if full not in FLOATS:
        raise ConfigError(key, name, f"Use one of {', '.join((*_SHORT, *FLOATS))}.")
    return full


def name_of(array: np.ndarray) -> str:
    """Our name of an array's type; MindSpore's bfloat16 is "bfloat16"."""
    return array.dtype.name


def typed(bits: np.ndarray, name: str) -> np.ndarray:
    """The array whose `storage` bits are given: the same memory, seen as the named type."""
    return bits.view(bfloat16()) if name == "bfloat16" else bits


def bits_of(array: np.ndarray) -> np.ndarray:
    """The inverse of `typed`: the same memory as a type that NumPy itself knows."""
    return array.view(np.uint16) if name_of(array) == "bfloat16" else array


def bfloat16() -> np.dtype:
    """MindSpore's NumPy type of bfloat16."""
    from mindformers_glm.mindspore_private import bfloat16 as dtype  # noqa: PLC0415 - needs MindSpore

    return np.dtype(dtype)


def convert_bits(bits: np.ndarray, source: str, target: str) -> np.ndarray:
    """`bits` of a float type as bits of another, rounded to nearest even; integers and equal types pass."""
    if source == target or source not in FLOATS or target not in FLOATS:
        return bits
    if bits.size < (_MANY if bits.itemsize == 2 else _LARGE):
        return _converted(bits, source, target)
    flat = bits.reshape(-1)
    found = small_pages(flat.shape, DTYPES[target].storage)

    def some(begin: int) -> None:
        part = flat[begin : begin + _BLOCK]
        if part.itemsize == 2:  # so few different numbers are looked up
            places = part.view(np.uint16).astype(np.intp)
            np.take(_every(source, target), places, out=found[begin : begin + _BLOCK], mode="clip")
        else:
            found[begin : begin + _BLOCK] = _converted(part, source, target)

    begins = range(0, flat.size, _BLOCK)
    list(map(some, begins) if flat.size < _LARGE else side_by_side(some, begins))
    return found.reshape(bits.shape)


@cache
def _every(source: str, target: str) -> np.ndarray:
    """What each of the numbers of a type of two bytes is in another, in the order of its bits."""
    return _converted(np.arange(1 << 16, dtype=np.uint16).view(DTYPES[source].storage), source, target)


def _converted(bits: np.ndarray, source: str, target: str) -> np.ndarray:
    wide = _widen(bits) if source == "bfloat16" else bits
    if target != "bfloat16":
        with np.errstate(over="ignore"):  # callers look for the infinities
            return wide.astype(DTYPES[target].storage)
    return _narrow(wide.astype(np.float32, copy=False))


def convert(array: np.ndarray, target: str) -> np.ndarray:
    """The array as another float type, rounded to nearest even; integer arrays pass unchanged."""
    source = name_of(array)
    if source == target or source not in FLOATS:
        return array
    return typed(convert_bits(bits_of(array), source, target), target)


def is_finite(bits: np.ndarray, name: str) -> bool:
    """False when a float tensor, given by its bits, holds a NaN or an infinity.

    Those have the largest exponent, so they are the largest bits of either sign: two maxima find them, without the
    temporary arrays of numpy.isfinite.
    """
    if name not in FLOATS or not bits.size:
        return True
    size = DTYPES[name].storage.itemsize
    infinity = _INFINITY[name]
    sign = 1 << (8 * size - 1)
    largest_positive = int(bits.view(f"<i{size}").max())
    largest_negative = int(bits.view(f"<u{size}").max()) - sign
    return largest_positive < infinity and largest_negative < infinity


def _widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _narrow(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding must not carry a NaN into infinity
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
