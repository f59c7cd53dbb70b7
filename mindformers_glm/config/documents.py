"""docs/keys.md and configs/schema.json from the table of keys, and what components take from their classes.

python -m mindformers_glm.config.documents
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindformers_glm.config.arguments import OPTIONS
from mindformers_glm.config.keys import Key, all_keys, no_effect
from mindformers_glm.config.legacy import MODEL_NO_EFFECT
from mindformers_glm.config.ranges import RANGES
from mindformers_glm.config.schema import RunSchema, schema_keys
from mindformers_glm.config.signatures import FILE, described
from mindformers_glm.config.spec import PLACES
from mindformers_glm.config.texts import text_of
from mindformers_glm.files import write_text
from mindformers_glm.registry import CONFIGS, DATA_LOADERS, METRICS, PROCESSORS, TOKENIZERS, TRAINERS

_OPEN = (
    "context.mode",
    "context.device_target",
    "parallel.parallel_mode",
    "train_dataset.label_convention",
    "eval_dataset.label_convention",
)  # fmt: skip  - other spellings are read too
_HEAD = """# Keys of the configuration

Written by `python -m mindformers_glm.config.documents` from the table that validation, `--help` and the log read; do
not edit. Any key can be set on the command line: `--runner_config.epochs 2`. Components (optimizer, callbacks, data
loaders, ...) name a class by `type`; their other keys are its arguments. An unknown key is refused.


配置项一览。由上面的命令生成，请勿手工修改。任何配置项都可以在命令行上设置，例如 `--runner_config.epochs 2`。
"""


def keys_page() -> str:
    """docs/keys.md."""
    flags = {key: option.flag for option in OPTIONS for key in option.keys}
    lines = [_HEAD, "| key | value | default | option | what | 说明 |", "|---|---|---|---|---|---|"]
    lines += [_line(key, flags) for key in all_keys()]
    lines += ["", "## Keys of model.model_config without effect", ""]
    lines += [f"- `{row.key}`: {row.reason}" for row in MODEL_NO_EFFECT]
    lines += ["", "## Ranges of components' numbers", "", "| component | argument | range |", "|---|---|---|"]
    for kind, ranges in RANGES.items():
        lines += [f"| {kind} | `{name}` | {allowed.fix().removeprefix('Use ')} |" for name, allowed in ranges.items()]
    return "\n".join(lines) + "\n"


def editor_schema() -> dict[str, Any]:
    """configs/schema.json: what an editor needs to complete and check the YAML of a run."""
    schema = RunSchema.model_json_schema(by_alias=True)
    for name in schema_keys():
        *above, leaf = name.split(".")
        place = schema
        for part in above:
            place = _section(place["properties"][part], schema)
        described = place["properties"][leaf]
        for word in ("title", "default"):
            described.pop(word, None)
        english, chinese = text_of(name)
        reason = no_effect(name)
        text = f"{english}. {chinese}。" + (f" No effect here: {reason}." if reason else "")
        open_value = {"anyOf": [described, {"type": "string"}]} if name in _OPEN else described
        if name.endswith("_task.dataset_config"):
            open_value = {}
        place["properties"][leaf] = {"anyOf": [open_value, {"type": "null"}], "description": text}
    bases = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    schema["properties"]["base_config"] = {
        **bases,
        "description": "files that this one inherits from. 继承的配置文件。",
    }
    schema["title"] = "mindformers_glm: configuration of a run"
    for definition in [schema, *schema["$defs"].values()]:
        definition.pop("description", None)
        definition.pop("required", None)  # a file may inherit it
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _section(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that a property refers to, the object itself."""
    options = [described, *described.get("anyOf", [])]
    options += [inner for option in options[1:] for inner in option.get("anyOf", [])]
    reference = next(option["$ref"] for option in options if "$ref" in option)
    return schema["$defs"][reference.rpartition("/")[2]]


def _line(key: Key, flags: dict[str, str]) -> str:
    default = "" if key.default is None or key.is_section else f"`{key.default!r}`"
    what = f"no effect: {key.reason} ({key.english})" if key.reason else key.english
    chinese = f"不起作用（{key.chinese}）" if key.reason else key.chinese
    flag = f"`{flags[key.name]}`" if key.name in flags else ""
    cells = (f"`{key.name}`", key.values, default, flag, what, chinese)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def documents() -> dict[str, str]:
    """Path below the root of a checkout -> content."""
    schema = json.dumps(editor_schema(), ensure_ascii=False, indent=1) + "\n"
    heavy = {place.registry.kind: (place.registry, place.runtime) for place in PLACES.values()}
    for light in (CONFIGS, DATA_LOADERS, METRICS, PROCESSORS, TOKENIZERS):  # their classes are at hand
        del heavy[light.kind]
    signatures = json.dumps(described([*heavy.values(), (TRAINERS, ())]), indent=1) + "\n"
    return {
        "docs/keys.md": keys_page(),
        "configs/schema.json": schema,
        f"mindformers_glm/config/{FILE}": signatures,
    }


def main() -> None:
    """Writes the files of a checkout."""
    root = Path(__file__).resolve().parents[2]
    for name, text in documents().items():
        write_text(root / name, text)
        print(root / name)


if __name__ == "__main__":
    main()
