"""What is read can become what is asked for: names, shapes, packing and adapters, before the first byte is written."""

from __future__ import annotations

import re
from typing import Any

from mindformers_glm.checkpoint.convert.arrays import Source
from mindformers_glm.checkpoint.formats.dtypes import FLOATS
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.names import LORA_NAME, is_adapter
from mindformers_glm.checkpoint.load.source import WeightSource, check_adapter_kinds
from mindformers_glm.errors import CheckpointError, listed
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import bits_of, expected_shapes, is_tied, weight
from mindformers_glm.ops.quantized import SCALE

_MANY_LAYERS = 1000  # more than this above what the weights have are not counted one by one
_LAYER = re.compile(r"\.layers\.(\d+)\.")


def check_complete(source: Source, names: list[str], config: NetworkConfig) -> None:
    """Passes when the base weights among `names` are those of `config`, each of the right shape.

    Raises:
        CheckpointError: lists what is missing, surplus or misshapen.
    """
    base = [name for name in names if not is_adapter(name)]
    if not base:
        return
    check_sizes(source, config, base)
    wanted = expected_shapes(config)
    missing = [name for name in wanted if name not in base]
    surplus = [name for name in base if name not in wanted and not is_tied(name, config)]
    surplus += list(getattr(source, "unknown", []))
    wrong = [
        f"{name} is {source.shape(name)}, needs {wanted[name]}"
        for name in base
        if name in wanted and source.shape(name) != wanted[name]
    ]
    faults = [
        f"{len(found)} {what}: {listed(found, 2)}"
        for found, what in (
            (wrong, "of wrong shape"),
            (missing, "missing"),
            (surplus, "that the network does not have"),
        )
        if found
    ]
    if faults:
        raise CheckpointError(str(source.path), "; ".join(faults), "Give the configuration of this checkpoint.")


def check_sizes(source: Source, config: NetworkConfig, names: list[str]) -> None:
    """Passes when weights can be those of `config`, before anything of the size that it states is built.

    Raises:
        CheckpointError: empty or packed tensors, or far fewer layers than the configuration says.
    """
    empty = [name for name in names if 0 in source.shape(name)]
    if empty:
        raise _emptied(source, empty)
    if not config.quantization_bit:
        refuse_packed(source, names)
    layers = len({found.group(1) for name in names if (found := _LAYER.search(name))})
    if config.num_layers > layers + _MANY_LAYERS:
        fault = f"the weights have {layers} layers, num_layers of the configuration is {config.num_layers:,}"
        raise CheckpointError(str(source.path), fault, "Give the configuration of this checkpoint.")


def check_weights_fit(source: WeightSource, config: NetworkConfig) -> None:
    """Passes when a network of `config` has the size of these weights, before it is built.

    Every name and shape is compared when weights are loaded; this keeps a configuration that lies from taking memory.

    Raises:
        CheckpointError: as `check_sizes`, or a tensor that tells a width has another shape.
    """
    names = [name for name in source.names if not is_adapter(name)]
    check_sizes(source, config, names)
    for name in names:
        row = weight(name)
        if row is None or bits_of(row.ours, config):
            continue
        if "{}" in row.ours and ".layers.0." not in name:
            continue
        if source.shape(name) != row.shape(config):
            fault = f"1 of wrong shape: {name} is {source.shape(name)}, needs {row.shape(config)}"
            fix = "Compare num_layers, hidden_size and the other sizes of model_config with the checkpoint's."
            raise CheckpointError(str(source.path), fault, fix)


def refuse_packed(source: Source, names: list[str]) -> None:
    """Passes unless weights are integers, of which no configuration beside them tells the packing.

    Raises:
        CheckpointError: names one of them.
    """
    packed = [name for name in names if source.dtype(name) not in FLOATS]
    if packed and any(name.endswith(SCALE) for name in names):
        fix = "Its weights are quantised: load it with the config.yaml saved beside it (quantization_bit)."
        raise CheckpointError(str(source.path), f"{len(packed)} weights are integers with their scales", fix)
    if packed:
        fault = f"{len(packed)} weights are packed integers (int4 or int8; {packed[0]} is {source.dtype(packed[0])})"
        fix = "Official integer files are packed in a way of their own: take the float weights, and quantise on load."
        raise CheckpointError(str(source.path), fault, fix)


def check_adapter(
    source: Source, names: list[str], config: NetworkConfig | None, pet_config: dict[str, Any] | None
) -> None:
    """Passes when LoRA parameters come in pairs of one rank that fit their layers (of `config`) and `pet_config`.

    Raises:
        CheckpointError: names the layers, or the adapter is of a kind that no network here holds.
    """
    check_adapter_kinds(source.path, getattr(source, "unknown", []))
    layers = peft.adapted_layers(names)
    empty = [name for name in names if is_adapter(name) and 0 in source.shape(name)]
    if empty:
        raise _emptied(source, empty)
    unknown = list(getattr(source, "unknown", []))
    if layers and unknown:
        fault = f"{len(unknown)} of its tensors belong to no LoRA that is known here: {listed(unknown, 3)}"
        raise CheckpointError(str(source.path), fault, "This variant of LoRA is not implemented; merge it with peft.")
    wrong = []
    if config is not None and config.quantization_bit:  # of integers the shapes are those of their bytes
        config = config.model_copy(update={"quantization_bit": 0})
    for layer in layers:
        down, up = layer + LORA_NAME + "a", layer + LORA_NAME + "b"
        if down not in names or up not in names:
            wrong.append(f"{layer} has one of the two matrices only")
            continue
        rank = source.shape(down)[0]
        row = weight(layer + ".weight") if config else None
        rows, columns = row.shape(config) if row else (source.shape(up)[0], source.shape(down)[-1])
        if source.shape(down) != (rank, columns) or source.shape(up) != (rows, rank):
            wrong.append(f"{layer}: {source.shape(down)} and {source.shape(up)} for a weight {(rows, columns)}")
        elif pet_config and rank != pet_config.get("lora_rank", rank):
            wrong.append(f"{layer} has rank {rank}, pet_config says {pet_config['lora_rank']}")
        size = layer + LORA_NAME + "m"
        if pet_config and (size in names) != bool(pet_config.get("use_dora")):
            wrong.append(f"{layer} has {'a' if size in names else 'no'} lora_magnitude_vector, use_dora says otherwise")
        elif size in names and source.shape(size) != (rows,):
            wrong.append(f"{layer}: a lora_magnitude_vector of {source.shape(size)} for {rows} rows")
    if wrong:
        raise CheckpointError(
            str(source.path),
            f"its adapter does not fit: {listed(wrong)}",
            "Give the configuration it was trained with.",
        )


def _emptied(source: Source, names: list[str]) -> CheckpointError:
    fault = f"{len(names)} tensors are empty ({listed(names, 3)}), as DeepSpeed ZeRO-3 saves what was not gathered"
    fix = "Save it with stage3_gather_16bit_weights_on_model_save, or run zero_to_fp32.py on the training checkpoint."
    return CheckpointError(str(source.path), fault, fix)
