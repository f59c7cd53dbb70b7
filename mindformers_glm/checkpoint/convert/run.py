"""Carries out a conversion plan, streamed: memory holds a few blocks, the result appears whole."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from mindformers_glm.checkpoint.convert.arrays import ArraySource, Source
from mindformers_glm.checkpoint.convert.integers import Part, packing_of
from mindformers_glm.checkpoint.convert.plan import (
    FORMS,
    SHARD_BYTES,
    ConversionPlan,
    OutFile,
    OutTensor,
    plan_conversion,
)
from mindformers_glm.checkpoint.formats.blocks import BLOCK_BYTES, HashingFile, array_blocks, converted
from mindformers_glm.checkpoint.formats.dtypes import DTYPES, convert_bits
from mindformers_glm.checkpoint.formats.folder import FolderWriter, check_free, disk_fault
from mindformers_glm.checkpoint.formats.mindspore_ckpt import value_heads
from mindformers_glm.checkpoint.formats.safetensors_file import header_bytes
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.model_files import config_file, tokenizer_contents
from mindformers_glm.checkpoint.load.source import rearranged_row_order, reorder_rows
from mindformers_glm.errors import CheckpointError
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.kernels.memory import ALIGNED
from mindformers_glm.ops.panels import PANEL, to_panels

_LARGEST_HALF = 65504.0


def run_plan(
    plan: ConversionPlan, *, overwrite: bool = False, progress: Callable[[int], None] = lambda done: None
) -> Path:
    """Writes what the plan says and returns its path. `progress` is told the bytes done, as they are done.

    Raises:
        CheckpointError: the disk is too small or full, the place is taken, or a number is not finite.
    """
    _check_place(plan, overwrite)
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    space = shutil.disk_usage(plan.out.parent).free
    if plan.size > space:
        raise CheckpointError(str(plan.out), f"{plan.size:,} bytes are needed and {space:,} free", "Free disk space.")
    if not plan.is_folder:
        return _write_ckpt_file(plan, overwrite, progress)
    with FolderWriter(plan.out, work=_work(plan), overwrite=overwrite) as folder:
        for file in plan.files:
            if folder.has(file.name):
                progress(file.size)
            _add(folder, plan, file, progress)
        write_index(plan, folder)
        _write_beside(plan, folder)
    return plan.out


def _add(folder: FolderWriter, plan: ConversionPlan, file: OutFile, progress: Callable[[int], None]) -> None:
    folder.add(file.name, lambda out: write_safetensors(plan, file, out, progress))


def save_directory(
    folder: str | Path,
    arrays: Mapping[str, np.ndarray],
    config: NetworkConfig,
    *,
    form: str = "ours",
    tokenizer: str | Path | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> Path:
    """Writes a checkpoint folder of ours from arrays under our names: config.yaml, shards, tokenizer, manifest.

    `form` is ours or ours-panels, `tokenizer` a folder that holds its files. The folder appears whole or not at all.

    Raises:
        CheckpointError: the arrays are not those of `config`, the place is taken, or the disk is full.
    """
    plan = plan_conversion(
        ArraySource(arrays),
        folder,
        form,
        config=config,
        dtype=dtype,
        shard_bytes=shard_bytes,
        pet_config=config.pet_config,
        tokenizer=None if tokenizer is None else Path(tokenizer),
    )
    return run_plan(plan, overwrite=overwrite)


def inv_freq_bits(config: NetworkConfig, dtype: str) -> np.ndarray:
    """The rotary frequencies that official files carry, in their type: 1 / base^(2i / (channels / 2))."""
    half = config.kv_channels // 2
    base = 10000.0 * (config.rope_ratio if config.rope_method == "base" else 1.0)
    exact = (1.0 / base ** (np.arange(0, half, 2, dtype=np.float32) / np.float32(half))).astype(np.float32)
    return convert_bits(exact, "float32", dtype)


def _blocks(plan: ConversionPlan, tensor: OutTensor) -> Iterator[np.ndarray]:
    """The bits of one output tensor, flat, a block at a time."""
    if not tensor.ours:
        yield inv_freq_bits(plan.network, tensor.dtype)
        return
    source, target = plan.source, tensor.target
    if tensor.part is not None:
        yield from _packed_blocks(source, tensor.ours, tensor.part)
        return
    if tensor.has_panels:
        yield from _panel_blocks(source, tensor)
        return
    if target is not None and target.rearranged:
        whole = reorder_rows(source.read_bits(tensor.ours), plan.network, rearranged_row_order)
        blocks = array_blocks(whole, target.start, target.stop)
    else:
        shape = source.shape(tensor.ours)
        rows = (target.start, target.stop) if target else (0, shape[0] if shape else 1)
        blocks = source.blocks(tensor.ours, *rows)
    yield from converted(blocks, source.dtype(tensor.ours), tensor.dtype, name=tensor.ours, place=source.path)


def _counted_blocks(plan: ConversionPlan, tensor: OutTensor) -> Iterator[np.ndarray]:
    """The same, as many bytes as the table of the file says."""
    written = 0
    for block in _blocks(plan, tensor):
        written += block.nbytes
        yield block
    if written != tensor.size:
        fault = f"{tensor.name} came as {written:,} bytes instead of {tensor.size:,}"
        raise CheckpointError(str(plan.source.path), fault, "Nothing was written: this is a fault of the program.")


def _packed_blocks(source: Source, name: str, part: Part) -> Iterator[np.ndarray]:
    """A tensor of a packed weight, made of a few rows at a time where it can be."""
    rows, columns = source.shape(name)
    step = max(1, BLOCK_BYTES // (4 * columns)) if part.by_rows else rows
    for start in range(0, rows, step):
        made = part.made(float_rows(source, name, start, min(start + step, rows)))
        yield np.ascontiguousarray(made).reshape(-1)


def _panel_blocks(source: Source, tensor: OutTensor) -> Iterator[np.ndarray]:
    """Integers or their scales in the order of the kernels, some whole panels at a time."""
    name, target = tensor.ours, tensor.target
    rows, numbers = source.shape(name)
    assert target is None or (target.start, target.stop, target.rearranged) == (0, rows, False), name
    storage, kind = DTYPES[tensor.dtype].storage, source.dtype(name)
    step = max(1, BLOCK_BYTES // (PANEL * numbers * storage.itemsize)) * PANEL
    for start in range(0, rows, step):
        blocks = source.blocks(name, start, min(start + step, rows))
        if kind != tensor.dtype:
            blocks = converted(blocks, kind, tensor.dtype, name=name, place=source.path)
        parts = [block.copy() for block in blocks]
        yield to_panels(np.concatenate(parts).reshape(-1, numbers)).reshape(-1)


def float_rows(source: Source, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a matrix as float32.

    Raises:
        CheckpointError: numbers that are not finite, or too large for the float16 of the scales.
    """
    columns = source.shape(name)[1]
    values = np.empty((stop - start) * columns, np.float32)
    blocks, place = source.blocks(name, start, stop), 0
    for block in converted(blocks, source.dtype(name), "float32", name=name, place=source.path):
        values[place : place + block.size] = block
        place += block.size
    if np.abs(values).max(initial=0) > _LARGEST_HALF:
        raise CheckpointError(str(source.path), f"{name} has numbers too large for float16", "Write floats (--to hf).")
    return values.reshape(-1, columns)


def write_safetensors(plan: ConversionPlan, file: OutFile, out: HashingFile, progress: Callable[[int], None]) -> None:
    """Writes one safetensors file of the plan, tensor by tensor in blocks."""
    aligned = ALIGNED if any(tensor.has_panels for tensor in file.tensors) else 8

    def order(tensor: OutTensor) -> tuple[bool, int]:
        """Wide types first, so that all are aligned; for panels what moves nothing behind it comes first."""
        is_odd = aligned == ALIGNED and tensor.size % ALIGNED != 0
        return is_odd, -DTYPES[tensor.dtype].storage.itemsize

    tensors = sorted(file.tensors, key=order)
    out.write(header_bytes([(t.name, t.dtype, t.shape) for t in tensors], {"format": "np"}, aligned=aligned))
    for tensor in tensors:
        for block in _counted_blocks(plan, tensor):
            out.write(block)
            progress(block.nbytes)


def _write_ckpt_file(plan: ConversionPlan, overwrite: bool, progress: Callable[[int], None]) -> Path:
    """One .ckpt, and beside it the YAML that MindFormers' from_pretrained wants, unless another is there."""
    yaml_path = plan.out.with_suffix(".yaml")
    try:
        with atomic_write(plan.out) as file:
            for tensor in plan.files[0].tensors:
                write_ckpt_tensor(plan, tensor, file, progress)
        if plan.config is not None and plan.config_is_exact and (overwrite or not yaml_path.exists()):
            write_text(yaml_path, config_file(plan.config, "mf10", plan.naming)[1])
    except OSError as error:
        raise disk_fault(plan.out, error) from error
    return plan.out


def _check_place(plan: ConversionPlan, overwrite: bool) -> None:
    if plan.is_folder:
        check_free(plan.out, overwrite=overwrite)
    elif plan.out.suffix != ".ckpt":
        raise CheckpointError(str(plan.out), f"the form {plan.form} is one file", "End its name in .ckpt.")
    elif plan.out.exists() and (plan.out.is_dir() or not overwrite):
        raise CheckpointError(str(plan.out), "it exists already", "Choose another name, or allow overwriting it.")


def write_ckpt_tensor(
    plan: ConversionPlan, tensor: OutTensor, file: IO[bytes], progress: Callable[[int], None]
) -> None:
    """Writes one tensor into a MindSpore .ckpt file, in the slices of its format."""
    heads = iter(value_heads(tensor.name, tensor.dtype, tensor.shape))
    left = 0
    for block in _counted_blocks(plan, tensor):
        data = block.data.cast("B")
        while len(data):
            if left == 0:
                head, left = next(heads)
                file.write(head)
            file.write(data[:left])
            progress(min(left, len(data)))
            taken = min(left, len(data))
            data, left = data[taken:], left - taken


def write_index(plan: ConversionPlan, folder: FolderWriter) -> None:
    """Adds the table that tells which file holds which tensor, where there are several files."""
    if len(plan.files) == 1:
        return
    table = {tensor.name: file.name for file in plan.files for tensor in file.tensors}
    index = {"metadata": {"total_size": plan.size}, "weight_map": dict(sorted(table.items()))}
    text = json.dumps(index, indent=2).encode() + b"\n"
    folder.add("model.safetensors.index.json", lambda out: out.write(text))


def _write_beside(plan: ConversionPlan, folder: FolderWriter) -> None:
    contents: dict[str, bytes] = {}
    if plan.form == "peft":
        layers = peft.adapted_layers([tensor.ours for tensor in plan.files[0].tensors])
        contents[peft.CONFIG] = (
            json.dumps(peft.adapter_config(plan.pet_config or {}, layers), indent=2).encode() + b"\n"
        )
    else:
        name, text = config_file(plan.network, FORMS[plan.form], plan.naming)
        packing = packing_of(plan.form, plan.network)
        if packing is not None:
            text = json.dumps({**json.loads(text), **packing.config}, indent=2) + "\n"
            contents.update({key: json.dumps(value, indent=2).encode() for key, value in packing.beside.items()})
        contents[name] = text.encode()
    if plan.tokenizer is not None:
        contents.update(tokenizer_contents(plan.tokenizer))
    for name, content in contents.items():
        folder.add(name, partial(_write_bytes, content))


def _write_bytes(content: bytes, out: IO[bytes]) -> None:
    out.write(content)


def _work(plan: ConversionPlan) -> dict[str, Any]:
    """What must be equal for an interrupted conversion to go on, and what the manifest says about the content."""
    files = [file.path for file in getattr(plan.source, "files", [])]
    sources = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    types = sorted({tensor.dtype for file in plan.files for tensor in file.tensors})
    about = {"form": plan.form, "dtypes": types, "tensors": sum(len(file.tensors) for file in plan.files)}
    return {
        "about": about,
        "sources": sources,
        "config": plan.config.model_dump(mode="json") if plan.config else None,
        "files": [[file.name, file.size] for file in plan.files],
        "naming": list(plan.naming),
        "unique": "" if files else secrets.token_hex(8),  # arrays in memory cannot be compared with an earlier run's
    }
