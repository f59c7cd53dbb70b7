"""What each name in a file is: a weight (of which generation), an adapter's, training state, or nothing we need."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from mindformers_glm.models.glm.weights import WEIGHTS, rename, weight

# Entries beside the weights, as MindSpore's optimizers, wrappers and MindFormers' callbacks name them.
_MOMENTS = ("adam_m.", "adam_v.", "moment1.", "moment2.", "moments.", "accum.", "accu_grads.", "vhat.")
_COUNTERS = {
    *("global_step", "epoch_num", "step_num", "loss_scale", "scale_sense", "learning_rate", "weight_decay"),
    *("current_iterator_step", "last_overflow_iterator_step", "beta1_power", "beta2_power", "cur_iter", "good_steps"),
    *("scaling_factor", "momentum", "global_batch_size"),
}
_CACHE = re.compile(r"\.(key_past|value_past|key_cache|value_cache)$")
_PREFIXES = re.compile(r"^.*?(?=transformer\.|prefix_encoder\.)")
_LORA = re.compile(r"\.(?:mindpet_delta_|tk_delta_)?lora_([abAB])(?:\.default)?(?:\.weight)?$")
_LORA_NAME = ".mindpet_delta_lora_"
PREFIX_NAME = "prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table"
_PREFIX_SOURCES = {
    PREFIX_NAME,
    PREFIX_NAME.replace("mindpet_delta", "tk_delta"),
    "prefix_encoder.embedding.weight",
    "transformer.prefix_encoder.embedding.weight",
}


class Kind(Enum):
    """What one entry of a file is for."""

    WEIGHT = "weight"
    ADAPTER = "adapter"
    STATE = "training state"
    IGNORED = "not needed"
    UNKNOWN = "unknown"


class Meaning(NamedTuple):
    """The reading of one name. `part` counts the pieces of a weight that its generation keeps apart."""

    kind: Kind
    ours: str
    generation: str = ""
    part: int = 0
    parts: int = 1
    reason: str = ""


_SPLIT = {
    name: (row.ours, index, len(row.split)) for row in WEIGHTS for index, name in enumerate(row.split) if row.split
}
_NUMBER = re.compile(r"\.layers\.(\d+)\.")


def meaning(name: str) -> Meaning:
    """What `name` stands for, with a common prefix (`module.`, `base_model.model.`) taken off."""
    if name.startswith(_MOMENTS) or name in _COUNTERS or name.startswith("learning_rate"):
        return Meaning(Kind.STATE, name)
    bare = _PREFIXES.sub("", name, count=1)
    return _ignored(bare) or _weight(bare) or _adapter(bare) or Meaning(Kind.UNKNOWN, name)


def is_adapter(name: str) -> bool:
    """True for our names of LoRA and prefix parameters."""
    return "mindpet_delta" in name


def _ignored(name: str) -> Meaning | None:
    if name.endswith("rotary_pos_emb.inv_freq"):
        return Meaning(Kind.IGNORED, name, reason="rotary frequencies, computed by the network")
    if _CACHE.search(name):
        return Meaning(Kind.IGNORED, name, reason="key-value cache of a generation run")
    if name.endswith("delta_ptuning2_prefix"):
        return Meaning(Kind.IGNORED, name, reason="row numbers of the prefix table")
    return None


def _weight(name: str) -> Meaning | None:
    for column, generation in (("ours", "mf10"), ("hf", "hf"), ("mf12", "mf12")):
        row = weight(name, column)
        if row is not None:
            shared = row.ours == row.hf
            return Meaning(Kind.WEIGHT, rename(name, column, "ours"), "" if shared else generation)
    number = _NUMBER.search(name)
    found = _SPLIT.get(_NUMBER.sub(".layers.{}.", name, count=1))
    if found is None or number is None:
        return None
    ours, part, parts = found
    return Meaning(Kind.WEIGHT, ours.format(number.group(1)), "mf15", part, parts)


def _adapter(name: str) -> Meaning | None:
    if name in _PREFIX_SOURCES:
        return Meaning(Kind.ADAPTER, PREFIX_NAME)
    found = _LORA.search(name)
    if found is None:
        return None
    layer = name[: found.start()]
    if weight(layer + ".weight") is None:
        return None
    return Meaning(Kind.ADAPTER, layer + _LORA_NAME + found.group(1).lower())
