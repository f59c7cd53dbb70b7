"""What is measured: the settings of one run, checked before any process starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels.structures import CACHE_KINDS, usual_cache
from mindformers_glm.quantization.interface import scheme_names, scheme_of

if TYPE_CHECKING:
    from mindformers_glm.models.interface import NetworkConfig

FLOATS = ("float32", "bfloat16")
STEPS = {"train": 5, "prefill": 3, "decode": 48, "ops": 9, "start": 3}
_LORA = {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.0}


class Shape(NamedTuple):
    """A network as the peers write it: vocab,hidden,layers,heads,kv_groups,ffn."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_groups: int
    ffn: int

    @classmethod
    def read(cls, text: str) -> Shape:
        """The shape that a text of six numbers names.

        Raises:
            ConfigError: there are not six whole numbers, or they make no network.
        """
        parts = text.split(",")
        if len(parts) != len(cls._fields) or not all(part.strip().isdigit() and int(part) for part in parts):
            raise ConfigError("--shape", text, f"Give {','.join(cls._fields)}, for example 8192,512,8,8,2,1376.")
        shape = cls(*map(int, parts))
        if shape.hidden % shape.heads or shape.head_dim % 4:
            fix = "hidden must be heads times a multiple of 4: half of each head is rotated in pairs."
            raise ConfigError("--shape", text, fix)
        if shape.heads % shape.kv_groups:
            raise ConfigError("--shape", text, f"kv_groups must divide heads ({shape.heads}).")
        return shape

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads

    def __str__(self) -> str:
        return ",".join(map(str, self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One measurement. `length` is --seq of train and ops, --prompt of prefill, --context of decode.

    `model` is for start; `only` for ops: parts of the names of operators, all where it is empty.
    """

    what: str
    shape: Shape = Shape(8192, 512, 8, 8, 2, 1376)
    batch: int = 1
    length: int = 512
    dtype: str = "float32"
    lora: bool = False
    threads: int = 1
    steps: int = 1
    chunk: int = 256
    group_size: int | None = None
    cache_dtype: str = "float32"  # "": what users get
    model: str = "glm2_tiny"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.what == "train" and self.dtype not in FLOATS:
            raise ConfigError("--dtype", self.dtype, "Integer weights cannot be trained: use float32 or bfloat16.")
        if self.what != "train" and self.lora:
            raise ConfigError("--lora", True, "It belongs to train.")
        if not self.cache_dtype:
            object.__setattr__(self, "cache_dtype", usual_cache(is_exact=self._is_exact()))
        if self.cache_dtype not in CACHE_KINDS:
            raise ConfigError("--cache_dtype", self.cache_dtype, f"Use one of {', '.join(CACHE_KINDS)}.")
        for value in (self.shape.hidden, self.shape.ffn):
            if self.dtype not in FLOATS and self.group() and value % self.group():
                fix = f"It must divide hidden ({self.shape.hidden}) and ffn ({self.shape.ffn})."
                raise ConfigError("--group_size", self.group(), fix)

    def _is_exact(self) -> bool:
        if self.dtype in FLOATS:
            return self.dtype == "float32"
        return not scheme_of(self.dtype, "--dtype").network_keys(None)["quantization_bit"]

    def group(self) -> int:
        """Columns that share a scale of integers: 32 where the scheme has such groups; 0 where a whole row does.

        Raises:
            ConfigError: the scheme has no groups of the size that is asked for.
        """
        scheme = scheme_of(self.dtype, "--dtype")
        return scheme.group(
            32 if self.group_size is None and 32 in scheme.group_sizes else self.group_size, "--group_size"
        )

    def config(self, *, layers: int | None = None) -> NetworkConfig:
        """The network's configuration. Training in bfloat16 keeps float32 weights, running does not."""
        from mindformers_glm.models.family import FAMILIES  # noqa: PLC0415 - not for --help
        from mindformers_glm.models.interface import NetworkConfig  # noqa: PLC0415

        trains = self.what in ("train", "ops")
        half = self.dtype == "bfloat16"
        return NetworkConfig(
            num_layers=layers or self.shape.layers,
            padded_vocab_size=self.shape.vocab,
            hidden_size=self.shape.hidden,
            ffn_hidden_size=self.shape.ffn,
            kv_channels=self.shape.head_dim,
            num_attention_heads=self.shape.heads,
            multi_query_group_num=self.shape.kv_groups,
            seq_length=self.length if trains else self.length + self.steps + 64,
            param_init_type="bfloat16" if half and not trains else "float32",
            compute_dtype="bfloat16" if half and trains else "float32",
            pet_config={**_LORA, "target_modules": FAMILIES.default().lora_targets()} if self.lora else None,
        )

    def plain(self) -> dict[str, Any]:
        """The settings in JSON's types; `from_plain` reads them back."""
        return {**dataclasses.asdict(self), "shape": str(self.shape), "only": list(self.only)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Settings:
        """Settings that `plain` wrote."""
        return cls(**{**values, "shape": Shape.read(values["shape"]), "only": tuple(values["only"])})


def whole(key: str, *, lowest: int = 1) -> Callable[[str], int]:
    """A reader of whole numbers for an option; wrong ones are a ConfigError."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest:
            raise ConfigError(key, text, f"Use a whole number, {lowest} or more.")
        return number

    return read


def read_dtype(text: str) -> str:
    """A type of floats, or the name of a quantisation scheme.

    Raises:
        ConfigError: it is none.
    """
    if text not in FLOATS and text not in scheme_names():
        raise ConfigError("--dtype", text, f"Use one of {', '.join((*FLOATS, *scheme_names()))}.")
    return text


def read_threads(text: str) -> int:
    """A number of threads, at most the CPUs that this process may use.

    Raises:
        ConfigError: it is none.
    """
    number, there = whole("--threads")(text), available_threads()
    if number > there:
        raise ConfigError("--threads", number, f"This process may use {there} CPUs.")
    return number


def available_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
