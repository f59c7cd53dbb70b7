"""What `pet_config` may say. No MindSpore here: a configuration is checked before anything is compiled."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import pydantic_faults

Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"],
    BeforeValidator(lambda value: value if isinstance(value, str) else str(value).lower()),
]
ALL_LINEAR = "all-linear"  # as target_modules: every linear layer of the blocks
_KINDS = ("lora", "ptuning2")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) and value != "None" else None if value == "None" else value


Patterns = Annotated[list[str] | None, BeforeValidator(_listed)]


class LoraConfig(pydantic.BaseModel):
    """Low-rank adapters: y = W x + b + scaling * B A dropout(x), all else frozen.

    `target_modules` and `exclude_layers` are regular expressions matched from the start of a layer's own name
    ("query_key_value"); "all-linear" takes every linear layer of the blocks, not the output layer. `freeze_include` and
    `freeze_exclude` are shell patterns over whole parameter names that freeze more, or train more, than the rule "all
    but the adapters is frozen".

    `use_rslora`: scaling is lora_alpha / sqrt(lora_rank) (Kalajdzievski 2023). `use_dora`: y = f * (W x + scaling * B A
    dropout(x)) + b with f = m / |W + scaling * B A| for each row and m learned (Liu et al. 2024). `loraplus_lr_ratio`:
    the learning rate of B is so many times that of A (Hayou et al. 2024); of the optimizers that have it, see
    optim/groups.py.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    pet_type: Literal["lora"] = "lora"
    lora_rank: int = Field(8, ge=1)
    lora_alpha: float = Field(16, gt=0)
    lora_dropout: float = Field(0.01, ge=0, lt=1)
    target_modules: str = ".*dense*|.*linear*"
    exclude_layers: Patterns = None
    freeze_include: Patterns = None
    freeze_exclude: Patterns = None
    param_init_type: Dtype = "float32"
    compute_dtype: Dtype | None = None
    use_rslora: bool = False
    use_dora: bool = False
    loraplus_lr_ratio: float | None = Field(None, gt=0)

    @property
    def scaling(self) -> float:
        """What B A is multiplied by."""
        return scaling_of(self.lora_alpha, self.lora_rank, use_rslora=self.use_rslora)

    @pydantic.field_validator("target_modules", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        if value is None or value == "None":
            return cls.model_fields["target_modules"].default
        return "|".join(map(str, value)) if isinstance(value, list) else value

    @pydantic.field_validator("target_modules", "exclude_layers")
    @classmethod
    def _compiles(cls, value: Any) -> Any:
        for pattern in [value] if isinstance(value, str) else value or []:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return value


class PrefixConfig(pydantic.BaseModel):
    """P-Tuning v2: `pre_seq_len` trained keys and values before the first token of every layer, all else frozen."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    pet_type: Literal["ptuning2"] = "ptuning2"
    pre_seq_len: int = Field(128, ge=1)
    prefix_projection: bool = False
    projection_dim: int = Field(128, ge=1)
    dropout_prob: float = Field(0.0, ge=0, lt=1)

    @pydantic.field_validator("prefix_projection")
    @classmethod
    def _direct(cls, value: bool) -> bool:
        if value:
            raise ValueError("The projected prefix is not implemented; use False")
        return value


def scaling_of(alpha: float, rank: int, *, use_rslora: bool) -> float:
    """What B A of a LoRA is multiplied by: alpha / rank, or alpha / sqrt(rank)."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)


def lr_ratios(pet_config: Mapping[str, Any] | None) -> Callable[[str], float]:
    """How many times the run's learning rate a parameter of a name learns with: loraplus_lr_ratio for the B of LoRA."""
    ratio = float((pet_config or {}).get("loraplus_lr_ratio") or 1.0)
    return lambda name: ratio if name.endswith("mindpet_delta_lora_b") else 1.0


def read_pet_config(given: Mapping[str, Any], *, key: str = "pet_config") -> LoraConfig | PrefixConfig:
    """The adapter that `pet_config` describes, every value checked.

    Raises:
        ConfigError: an unknown kind or key, or a wrong value.
    """
    kind = str(given.get("pet_type", "lora")).lower()
    if kind not in _KINDS:
        raise ConfigError(f"{key}.pet_type", given["pet_type"], f"Use one of {', '.join(_KINDS)}.")
    model = LoraConfig if kind == "lora" else PrefixConfig
    try:
        return model.model_validate({**given, "pet_type": kind})
    except pydantic.ValidationError as error:
        raise pydantic_faults(error, key, model.model_fields)[0] from error
