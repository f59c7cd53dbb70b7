"""The table of keys: one row for each key of a run's YAML, joined from the one home of each column.

    type, default, range   the schema (schema.py, sections.py)
    effect, or its reason  legacy.py
    option                 arguments.py
    what it is for         texts.py, in English and Chinese

Validation, `--help`, the log line of a key without effect, docs/keys.md and configs/schema.json come from these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mindformers_glm.config.legacy import NO_EFFECT
from mindformers_glm.config.schema import RunSchema, schema_keys, section_of
from mindformers_glm.config.texts import text_of

DATASETS = ("train_dataset.", "eval_dataset.")
_DATA_PIPELINE = "MindData's pipeline is not used: one background thread turns text into tokens"
_OF_DATASET = (
    "input_columns", "num_parallel_workers", "python_multiprocessing", "numa_enable", "auto_tune", "filepath_prefix",
    "autotune_per_step", "profile", "do_eval",
)  # fmt: skip


class Key(NamedTuple):
    """A row. `reason` is empty for a key with an effect; `values` says type and range as a reader writes them."""

    name: str
    values: str
    default: Any
    reason: str
    english: str
    chinese: str
    is_section: bool

    @property
    def has_effect(self) -> bool:
        """Whether the key changes anything."""
        return not self.reason


def all_keys() -> list[Key]:
    """Every row, in the order of the schema."""
    schema = RunSchema.model_json_schema(by_alias=True)
    return [_row(name, schema) for name in schema_keys()]


def no_effect(name: str) -> str:
    """Why a key does nothing; empty where it does something."""
    found = next((row.reason for row in NO_EFFECT if row.key == name), "")
    place, _, leaf = name.partition(".")
    return found or (_DATA_PIPELINE if f"{place}." in DATASETS and leaf in _OF_DATASET else "")


def _row(name: str, schema: dict[str, Any]) -> Key:
    described = described_at(name, schema)
    english, chinese = text_of(name)
    is_section = section_of(tuple(name.split("."))) is not None
    values = "section" if is_section else values_of(described)
    return Key(
        name, values, None if is_section else described.get("default"), no_effect(name), english, chinese, is_section
    )


def described_at(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of the value at a dotted key."""
    place = schema
    for part in name.split("."):
        place = resolved(resolved(place, schema)["properties"][part], schema)
    return place


def resolved(place: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its reference to a section followed, the default that stands beside it kept."""
    options = [place, *place.get("anyOf", []), *place.get("allOf", [])]
    reference = next((option["$ref"] for option in options if "$ref" in option), None)
    if reference is None:
        return place
    beside = {key: value for key, value in place.items() if key not in ("$ref", "anyOf", "allOf")}
    return {**schema["$defs"][reference.rpartition("/")[2]], **beside}


def values_of(described: dict[str, Any]) -> str:
    """Type and range in words: "whole number, 1 to 2147483647", "CPU or Ascend"."""
    options = [option for option in described.get("anyOf", [described]) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(_one(option) for option in options)) or "any"


def _one(option: dict[str, Any]) -> str:
    if "enum" in option:
        return ", ".join(str(value) for value in option["enum"])
    if "const" in option:
        return str(option["const"])
    kind = option.get("type", "any")
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "True or False"}
    if kind == "array":
        return f"list of {_one(option.get('items', {}))}"
    if kind == "object":
        return "mapping"
    ends = [f"from {option['minimum']}"] if "minimum" in option else []
    ends += [f"above {option['exclusiveMinimum']}"] if "exclusiveMinimum" in option else []
    most = option.get("maximum")
    ends += [f"to {most}"] if most is not None and most < 2**31 - 1 else []
    return " ".join([words.get(kind, kind), *ends])
