"""A quantised model of a float model and what calibration made of its layers: in memory, and as folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from mindformers_glm.assembly.pieces import network_with_weights
from mindformers_glm.checkpoint.convert import save_directory
from mindformers_glm.checkpoint.convert.integers import is_block_matrix
from mindformers_glm.checkpoint.convert.run import inv_freq_bits
from mindformers_glm.checkpoint.formats.ascend_v1 import DESCRIPTION, WEIGHTS
from mindformers_glm.checkpoint.formats.blocks import HashingFile
from mindformers_glm.checkpoint.formats.dtypes import DTYPES, bits_of, name_of
from mindformers_glm.checkpoint.formats.folder import FolderWriter
from mindformers_glm.checkpoint.formats.safetensors_file import header_bytes
from mindformers_glm.checkpoint.load.filling import floats
from mindformers_glm.checkpoint.load.model_files import tokenizer_contents
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import bits_of as held_bits
from mindformers_glm.models.naming import expected_shapes, is_head, rename
from mindformers_glm.ops.quantized import SCALE, quantize, relative_error
from mindformers_glm.ops.w8a8 import Layer
from mindformers_glm.quantization.calibrate import Choice, Lost, layers_of

_W8A8 = ("weight", "input_scale", "input_offset", "quant_bias", "deq_scale")


class Overlaid(Mapping):
    """The weights of a float model with those that calibration made in their place, under our names."""

    def __init__(self, source: WeightSource, made: Mapping[str, np.ndarray]) -> None:
        self._source, self._made = source, made
        whole = {name.removesuffix(".quant_weight") for name in made if name.endswith(".quant_weight")}
        self._names = [name for name in source.names if name not in made and name.removesuffix(".weight") not in whole]
        self._names += [name for name in made if name.rpartition(".")[0] not in whole]

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._made[name]) if name in self._made else self._source.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def to_nearest(source: WeightSource, config: NetworkConfig, choice: Choice) -> tuple[dict[str, np.ndarray], list[Lost]]:
    """The integers of every layer by the scheme's own rule, without rows; errors of outputs are not known."""
    made: dict[str, np.ndarray] = {}
    lost = []
    for name in expected_shapes(config):
        if name.endswith(SCALE) or is_head(name) or not is_block_matrix(name):
            continue
        weight = floats(source, name)
        found = choice.scheme.quantise(weight, group_size=choice.group_size)
        made.update({name: found.weight, name + SCALE: found.scale})
        error = relative_error(found, weight, bits=choice.scheme.bits)
        lost.append(Lost(name.removesuffix(".weight"), error, float("nan")))
    return made, lost


def with_head_and_embedding(
    source: WeightSource, config: NetworkConfig, made: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`made` with the integers of the output layer and the embedding, rounded to nearest, where `config` wants such."""
    added: dict[str, np.ndarray] = dict(made)
    for name in expected_shapes(config):
        bits = 0 if name.endswith(SCALE) or name in made else held_bits(name, config)
        if bits:
            stored = name if name in source else next(iter(_tied(config)))
            weight = floats(source, stored)
            found = quantize(weight, bits=bits, group_size=config.quantization_group_size or weight.shape[1])
            added.update({name: found.weight, name + SCALE: found.scale})
    return added


def _tied(config: NetworkConfig) -> Iterable[str]:
    return [name for name in expected_shapes(config) if "embedding" in name]


def network_of(source: WeightSource, config: NetworkConfig, made: Mapping[str, np.ndarray]) -> nn.Cell:
    """The quantised network, for inference: integers, or W8A8 layers where `made` has such."""
    wide = {"param_init_type": "float32", "compute_dtype": "float32"}
    return network_with_weights(config.model_copy(update=wide), Overlaid(source, made), layers_of(made))


def write_ours(
    out: str | Path,
    source: WeightSource,
    config: NetworkConfig,
    made: Mapping[str, np.ndarray],
    *,
    tokenizer: Path | None,
    form: str = "ours",
    overwrite: bool = False,
) -> Path:
    """A folder of ours with integer weights, in rows or in panels (`form`); it appears whole or not at all."""
    arrays = {name: array for name, array in Overlaid(source, made).items()}
    return save_directory(out, arrays, config, form=form, tokenizer=tokenizer, overwrite=overwrite)


def write_ascend_v1(
    out: str | Path,
    source: WeightSource,
    config: NetworkConfig,
    made: Mapping[str, np.ndarray],
    *,
    tokenizer: Path | None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """A folder in ModelSlim's AscendV1 form: quant_model_weight_w8a8.safetensors, its description, config.json.

    What is not quantised stays in the type of the model; biases of quantised layers stay as floats too. Unverified on
    Ascend. The folder appears whole or not at all.
    """
    layers, plain = layers_of(made), Overlaid(source, made)
    dtype = source.dtype(source.names[0])
    tensors: dict[str, tuple[str, tuple[int, ...], Callable[[], np.ndarray]]] = {}
    kinds = {}
    for name in [*source.names]:
        theirs, layer = rename(name, "ours", "hf"), name.removesuffix(".weight")
        if layer in layers and name.endswith(".weight"):
            for part, bits in parts_of(layers[layer]).items():
                told = f"{theirs.removesuffix('.weight')}.{part}"
                tensors[told] = (name_of(bits), bits.shape, _giving(bits))
                kinds[told] = "W8A8"
            continue
        array = plain[name]
        kind = name_of(array)
        tensors[theirs] = (kind, array.shape, partial(_bits_of, plain, name))
        kinds[theirs] = "FLOAT"
        del array
    frequencies = inv_freq_bits(config, dtype)
    tensors["transformer.rotary_pos_emb.inv_freq"] = (dtype, frequencies.shape, lambda: frequencies)
    kinds["transformer.rotary_pos_emb.inv_freq"] = "FLOAT"
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].storage.itemsize, name))

    def write(file: HashingFile) -> None:
        file.write(header_bytes([(name, *tensors[name][:2]) for name in order], {"format": "pt"}))
        for name in order:
            bits = np.ascontiguousarray(tensors[name][2]())
            if bits.size:
                file.write(bits.data.cast("B"))
            progress(bits.nbytes)

    written = {**FAMILIES.of(config).written(config, "hf"), "quantize": "w8a8"}
    beside = {
        DESCRIPTION: json.dumps({"model_quant_type": "W8A8", **kinds}, indent=1).encode(),
        "config.json": (json.dumps(written, indent=2) + "\n").encode(),
        **({} if tokenizer is None else tokenizer_contents(tokenizer)),
    }
    work = {"about": {"form": "ascend-v1", "tensors": len(tensors)}, "files": order}
    with FolderWriter(out, work=work, overwrite=overwrite) as folder:
        folder.add(f"{WEIGHTS}.safetensors", write)
        for name, content in beside.items():
            folder.add(name, partial(_write_bytes, content))
    return Path(out)


def _giving(bits: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: bits


def _bits_of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return bits_of(arrays[name])


def _write_bytes(content: bytes, file: HashingFile) -> None:
    file.write(content)


def parts_of(layer: Layer) -> dict[str, np.ndarray]:
    """The AscendV1 tensors of a layer; deq_scale are the bits of the float32 as int64."""
    scale = np.ascontiguousarray(layer.deq_scale, np.float32).view(np.int32).astype(np.int64)
    found = (layer.quant_weight, layer.input_scale, layer.input_offset, layer.quant_bias, scale)
    return dict(zip(_W8A8, (np.asarray(part) for part in found), strict=True))


def about_of(config: NetworkConfig, made: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Bytes of the linear layers as floats of 16 bits, and as they are."""
    names = [name for name in made if name.endswith((".weight", ".quant_weight")) and made[name].ndim == 2]
    now = sum(made[name].nbytes for name in made if made[name].ndim)
    plain = {**config.model_dump(), "quantization_scheme": None, "quantization_bit": 0}
    shapes = expected_shapes(type(config)(**{**plain, "quantization_embedding_bits": 0}))
    before = sum(2 * int(np.prod(shapes[_float_name(name)])) for name in names if _float_name(name) in shapes)
    return {"layers": len(names), "bytes_float16": before, "bytes": now}


def _float_name(name: str) -> str:
    return name.replace(".quant_weight", ".weight")
