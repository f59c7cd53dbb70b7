"""`SectionModel`, the base of all sections of the YAML, and the one section that networks have too (recomputation).

Generating text needs no others, so the rest is in sections.py, which takes longer to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class SectionModel(BaseModel):
    """A mapping of the YAML in which every key is known; numbers are accepted where text is asked. It is frozen."""

    model_config = ConfigDict(
        extra="forbid",
        coerce_numbers_to_str=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        hide_input_in_errors=True,
        frozen=True,
        defer_build=True,  # most commands use few sections
    )

    def to_dict(self) -> dict[str, Any]:
        """The keys as they stand in a file, with plain values."""
        fields = type(self).model_fields
        values = {field.alias or name: plain(getattr(self, name)) for name, field in fields.items()}
        return {**values, **plain(self.model_extra or {})}


def plain(value: Any) -> Any:
    """A value of the configuration as dicts, lists and scalars of its own."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


class RecomputeKeys(SectionModel):
    """What a network is told of recomputation: `recompute_config` of a run, and of `model_config`."""

    recompute: bool | int | list[int] = False
    select_recompute: bool | int | list[int] = False
    parallel_optimizer_comm_recompute: bool = False
    mp_comm_recompute: bool = True
    recompute_slice_activation: bool = False
