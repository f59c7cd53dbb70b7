"""Integers that stand for floats, in files and folders of tensors: which packing it is, and who is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.checkpoint.formats import ascend_v1, official_integers, packed_columns, panel_files
from mindformers_glm.checkpoint.formats.dtypes import FLOATS
from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.errors import CheckpointError, shorten
from mindformers_glm.files import read_json
from mindformers_glm.log import logger

_SETTINGS = ("quantize_config.json", "quant_config.json")
_BITSANDBYTES = (".SCB", ".absmax", ".quant_map", ".nested_absmax", "weight_format")
_READ = ("gptq", "awq", "None")
_OTHER_ORDERS = ("marlin", "marlin_24", "gemv", "gemv_fast", "exllama", "bitblas")
_FIX = "Take the float weights, and quantise on load (quantization_bit); or GPTQ, AWQ, GGUF or official integers."


def unpacked(path: Path, files: list[TensorFile]) -> tuple[list[TensorFile], str]:
    """The files with floats in the place of packed integers, and what they were ("" where nothing was packed).

    Raises:
        CheckpointError: a packing that is not read, by its name; or parts that do not fit each other.
    """
    if any(file.network is not None for file in files):
        kinds = ", ".join(file.metadata["types"] for file in files if file.computed)
        return files, _told(path, f"{files[0].format} {kinds}") if kinds else ""
    files = panel_files.as_rows(files)
    settings = _settings(path, files)
    _refuse_others(path, files, settings)
    layers = packed_columns.packed_layers(files)
    if layers:
        made = packed_columns.as_floats(files, layers, settings)
        return made, _told(path, f"{layers[0].method} int{layers[0].bits}")
    w8a8 = ascend_v1.w8a8_layers(files)
    if w8a8:
        return ascend_v1.as_floats(files, w8a8), _told(path, "W8A8")
    bits = official_integers.official_bits(files)
    if bits:
        return official_integers.as_floats(files, bits), _told(path, f"official int{bits}")
    return files, ""


def _told(path: Path, packing: str) -> str:
    logger.info(
        "%s: %s weights, read as the floats that they stand for, or kept where the network holds such integers",
        path,
        packing,
    )
    return packing


def _settings(path: Path, files: Sequence[TensorFile]) -> Mapping[str, Any]:
    """What the files beside the weights say of their quantisation; empty where they say nothing."""
    if all(entry.dtype in FLOATS for file in files for entry in file.entries.values()):
        return {}
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    told = config.get("quantization_config") if isinstance(config, dict) else None
    for name in _SETTINGS:
        if not isinstance(told, dict) and (folder / name).is_file():
            told = read_json(folder / name)
    return told if isinstance(told, dict) else {}


def _refuse_others(path: Path, files: Sequence[TensorFile], settings: Mapping[str, Any]) -> None:
    method, form = settings.get("quant_method"), settings.get("checkpoint_format", settings.get("version"))
    marks = [name for file in files for name in file.entries if name.endswith(_BITSANDBYTES) or ".quant_state." in name]
    if marks or settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        method = "bitsandbytes"
    if str(method) not in _READ:
        raise CheckpointError(str(path), f"weights packed by {shorten(method)}, which is not read here", _FIX)
    if str(form).lower() in _OTHER_ORDERS:
        raise CheckpointError(str(path), f"{method} weights in the order of {form}, which is not read here", _FIX)
