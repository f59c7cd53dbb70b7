"""What each name in a file is, whichever program wrote it, and what our weights are called in each naming."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import is_ignored, joins, rename, rows, weight
from mindformers_glm.optim.interface import is_counter, state_of

# Entries beside the weights that no optimizer keeps, as MindSpore's wrappers and MindFormers' callbacks name them.
_COUNTERS = {
    *("epoch_num", "step_num", "loss_scale", "scale_sense", "weight_decay", "train_state", "global_batch_size"),
    *("current_iterator_step", "last_overflow_iterator_step", "cur_iter", "good_steps", "scaling_factor"),
}
_ALSO_LAYERS = {"linear.", "prev.", "stat.", "mu_", "eta_"}  # states, where a known parameter follows
_CACHE = re.compile(r"\.(key_past|value_past|key_cache|value_cache)$")
_PREFIX = re.compile(r"^.*?(?=transformer\.|prefix_encoder\.)")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_MODEL = re.compile(r"^(?:module\.|model\.)+")  # before Megatron-core's names
_LORA = re.compile(r"\.(?:mindpet_delta_|tk_delta_)?lora_([abmAB]|magnitude_vector)(?:\.default)?(?:\.weight)?$")
_PROJECTION = re.compile(r"prefix_encoder\.\w*trans\.\d+\.(?:weight|bias)$")

LORA_NAME = ".mindpet_delta_lora_"
PREFIX_NAME = "prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table"
HF_PREFIX_NAME = "transformer.prefix_encoder.embedding.weight"
_PREFIX_NAMES = {
    PREFIX_NAME,
    PREFIX_NAME.replace("mindpet_delta", "tk_delta"),
    HF_PREFIX_NAME,
    HF_PREFIX_NAME.removeprefix("transformer."),
}


class Kind(Enum):
    """What one entry of a file is for."""

    WEIGHT = "weight"
    ADAPTER = "adapter"
    STATE = "training state"
    IGNORED = "not needed"
    UNKNOWN = "unknown"


class Meaning(NamedTuple):
    """The reading of one name: `part` of `parts` when its naming keeps blocks of a weight apart."""

    kind: Kind
    ours: str
    naming: str = ""
    part: int = 0
    parts: int = 1
    reason: str = ""


class Naming(NamedTuple):
    """How a program names the weights. `rearranged`: query and key rows of each head evens first, then odds."""

    name: str
    split_qkv: bool = False
    split_mlp: bool = False
    rearranged: bool = False


NAMINGS = {
    "mf10": Naming("mf10"),
    "mf12": Naming("mf12"),
    "mf15": Naming("mf15", split_qkv=True, split_mlp=True),
    "hf": Naming("hf"),
    "native": Naming("native"),
    "mcore": Naming("mcore", split_qkv=True),
}


class Target(NamedTuple):
    """One tensor of a naming: rows [start, stop) of our weight, after query and key rows were rearranged if asked."""

    name: str
    start: int
    stop: int
    rearranged: bool = False


def _blocks(column: str) -> dict[str, tuple[str, int, int]]:
    return {
        name: (row.ours, index, len(getattr(row, column)))
        for row in rows()
        for index, name in enumerate(getattr(row, column))
    }


_SPLIT, NATIVE_BLOCKS = _blocks("split"), _blocks("native")
_MCORE = _blocks("mcore_split") | {row.mcore: (row.ours, 0, 1) for row in rows() if row.mcore}


def meaning(name: str) -> Meaning:
    """What `name` stands for, with a common prefix (`module.`, `base_model.model.`) taken off."""
    if name in _COUNTERS or is_counter(name) or _is_state(name):
        return Meaning(Kind.STATE, name)
    bare = _PREFIX.sub("", name, count=1).replace(".base_layer.", ".")  # peft's wrapper of an adapted layer
    return _ignored(bare) or _weight(bare) or _adapter(bare) or Meaning(Kind.UNKNOWN, name)


def targets(ours: str, naming: Naming, config: NetworkConfig) -> list[Target]:
    """The tensors that hold our weight in a naming; empty when the naming has no place for it."""
    row, number = weight(ours), _LAYER.search(ours)
    if row is None:
        return []
    rows = row.shape(config)[0]
    names: tuple[str, ...]
    if naming.name == "native":
        names = row.native
    elif naming.name == "mcore":
        apart = naming.split_qkv if joins(row.ours) == "qkv" else naming.split_mlp
        names = row.mcore_split if apart and row.mcore_split else (row.mcore,) if row.mcore else ()
    elif row.split and (naming.split_qkv if joins(row.ours) == "qkv" else naming.split_mlp):
        names = row.split
    else:
        names = (getattr(row, {"hf": "hf", "mf10": "ours"}.get(naming.name, "mf12")),)
    sizes = [rows] if len(names) < 2 else row.parts(config)
    if len(names) != len(sizes):  # no such weight there, or heads that are interleaved
        return []
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    reordered = naming.rearranged and joins(row.ours) == "qkv"
    return [
        Target(name.format(*number.groups() if number else ()), start, start + size, reordered)
        for name, start, size in zip(names, starts, sizes, strict=True)
    ]


def is_adapter(name: str) -> bool:
    """True for our names of LoRA and prefix parameters."""
    return "mindpet_delta" in name


def is_reordered(ours: str) -> bool:
    """True for what has the rows of query and key: the fused projection, its bias and its LoRA's second matrix."""
    return joins(ours) == "qkv" and not ours.endswith(LORA_NAME + "a")


def separate_adapters(names: Iterable[str]) -> list[str]:
    """The layers among `names` that have LoRA although they are blocks of one of ours: wq, wk, wv, gate, up."""
    bare = [_LORA.sub("", name) for name in names if _LORA.search(name)]
    return sorted({name for name in bare if _LAYER.sub(".layers.{}.", _PREFIX.sub("", name) + ".weight") in _SPLIT})


def is_projected_prefix(names: Iterable[str]) -> bool:
    """True when some are the layers between a P-Tuning v2 table and the keys and values (prefix_projection)."""
    return any(_PROJECTION.search(name) for name in names)


def _is_state(name: str) -> bool:
    """True for an optimizer's state, whatever wrapper's name stands before it (`optimizer.lamb_m.transformer...`)."""
    start = _PREFIX.match(name)
    wrappers = start.group().split(".")[:-1] if start else []
    places = [".".join(name.split(".")[i:]) for i in range(len(wrappers) + 1)]
    state = next((found for found in map(state_of, places) if found is not None), None)
    if state is None or state.prefix not in _ALSO_LAYERS:
        return state is not None
    return meaning(state.parameter).kind in (Kind.WEIGHT, Kind.ADAPTER)


def _ignored(name: str) -> Meaning | None:
    if is_ignored(name):
        return Meaning(Kind.IGNORED, name, reason="rotary frequencies, which the network computes")
    if _CACHE.search(name):
        return Meaning(Kind.IGNORED, name, reason="key-value cache of a generation run")
    if name.endswith("delta_ptuning2_prefix"):
        return Meaning(Kind.IGNORED, name, reason="row numbers of the prefix table")
    return None


def _weight(name: str) -> Meaning | None:
    for column, naming in (("ours", "mf10"), ("hf", "hf"), ("mf12", "mf12")):
        row = weight(name, column)
        if row is not None:
            shared = row.ours == row.hf
            return Meaning(Kind.WEIGHT, rename(name, column, "ours"), "" if shared else naming)
    number = _LAYER.search(name)
    pattern = _LAYER.sub(".layers.{}.", name, count=1)
    for naming, table in (("mf15", _SPLIT), ("native", NATIVE_BLOCKS), ("mcore", _MCORE)):
        pattern = _MODEL.sub("", pattern) if naming == "mcore" else pattern
        if pattern in table and (number is not None) == ("{}" in pattern):
            ours, part, parts = table[pattern]
            return Meaning(Kind.WEIGHT, ours.format(*number.groups() if number else ()), naming, part, parts)
    return None


def _adapter(name: str) -> Meaning | None:
    if name in _PREFIX_NAMES:
        return Meaning(Kind.ADAPTER, PREFIX_NAME)
    found = _LORA.search(name)
    layer = name[: found.start()] if found else ""
    if found is None:
        return None
    if weight(layer + ".weight") is None:
        return _native_adapter(layer.removeprefix("base_model.model."), found.group(1)[0].lower())
    return Meaning(Kind.ADAPTER, layer + LORA_NAME + found.group(1)[0].lower())


def _native_adapter(layer: str, letter: str) -> Meaning | None:
    """LoRA on a layer of transformers' networks that is a whole layer here; on parts of one see separate_lora.py."""
    number = _LAYER.search(layer)
    block = NATIVE_BLOCKS.get(_LAYER.sub(".layers.{}.", layer + ".weight", count=1))
    if block is None or block[2] > 1:
        return None
    ours = block[0].format(*number.groups() if number else ()).removesuffix(".weight")
    return Meaning(Kind.ADAPTER, ours + LORA_NAME + letter)
