"""The table of keys, and what is written from it: `--help`, docs/keys.md, configs/schema.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from mindformers_glm.config.arguments import GROUPS, OPTIONS, build_parser
from mindformers_glm.config.documents import documents, editor_schema
from mindformers_glm.config.keys import all_keys, no_effect
from mindformers_glm.config.schema import schema_keys
from mindformers_glm.config.texts import TEXTS, text_of


def test_every_key_has_a_row_with_both_texts_and_no_text_is_left_over():
    rows = all_keys()
    assert [row.name for row in rows] == schema_keys()
    assert all(row.english and re.search("[\u4e00-\u9fff]", row.chinese) for row in rows)
    used = {id(text_of(row.name)) for row in rows} | {id(text_of(key)) for option in OPTIONS for key in option.keys}
    assert [key for key, text in TEXTS.items() if id(text) not in used] == []


def test_rows_say_type_range_and_reason():
    rows = {row.name: row for row in all_keys()}
    assert rows["runner_config.epochs"].values == "whole number from 1"
    assert rows["runner_config.epochs"].default == 1
    assert rows["context.device_target"].values == "CPU, Ascend"
    assert rows["quantization.bits"].values == "0, 4, 8"
    assert rows["runner_config"].is_section
    assert not rows["adapter_id"].has_effect and rows["profile"].has_effect
    assert rows["train_dataset.num_parallel_workers"].reason


@pytest.mark.parametrize("name", ["docs/keys.md", "configs/schema.json"])
def test_the_written_files_are_in_step(root, name):
    said = f"{name} is behind the table: run python -m mindformers_glm.config.documents"
    assert (root / name).read_text(encoding="utf-8") == documents()[name], said


@pytest.mark.parametrize("language", ["C.UTF-8", "zh_CN.UTF-8"])
def test_help_says_no_effect_for_exactly_the_options_without_effect(monkeypatch, language):
    monkeypatch.setenv("LC_ALL", language)
    words = {"C.UTF-8": "no effect", "zh_CN.UTF-8": "不起作用"}[language]
    lines = {action.option_strings[0]: action.help for action in build_parser()._actions}
    for option in OPTIONS:
        assert (words in lines[option.flag]) == bool(no_effect(option.keys[0])), option.flag


def test_help_is_grouped_and_shows_choices(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    text = build_parser().format_help()
    assert all(f"\n{titles[0]}:\n" in text for titles in GROUPS.values())
    assert "--run_mode {train,finetune,eval,predict,export}" in text
    assert "--device_target {CPU,Ascend}" in text


def test_help_needs_no_mindspore(root):
    code = "import sys; sys.modules['mindspore'] = None; from mindformers_glm.cli.run import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "--load_checkpoint" in done.stdout


def properties(described: dict, schema: dict) -> dict | None:
    """The properties of a section, None for a plain value or a component."""
    if "$ref" in described:
        described = schema["$defs"][described["$ref"].rpartition("/")[2]]
    if "properties" in described:
        return described["properties"]
    for option in described.get("anyOf", []):
        found = properties(option, schema)
        if found is not None:
            return found
    return None


def test_an_editor_knows_every_key_of_the_shipped_files(root):
    schema = json.loads((root / "configs/schema.json").read_text(encoding="utf-8"))

    def strange(values, known, above=""):
        found = []
        for key, value in values.items():
            if key not in known and not above.startswith(("train_dataset", "eval_dataset")):
                found.append(f"{above}{key}")
            below = properties(known[key], schema) if key in known else None
            if below is not None and isinstance(value, dict):
                found += strange(value, below, f"{above}{key}.")
        return found

    demo = [root / "demo" / f"{name}.yaml" for name in ("full", "lora", "tool")]
    for path in [*sorted((root / "configs").rglob("*.yaml")), *demo]:
        text = path.read_text(encoding="utf-8")
        assert strange(yaml.safe_load(text), schema["properties"]) == [], path.name
        (place,) = re.findall(r"^# yaml-language-server: \$schema=(.+)$", text, re.M)
        assert (path.parent / place).resolve() == root / "configs/schema.json", path.name


def test_a_key_in_an_editor_says_what_it_is_for_in_both_languages():
    described = properties(editor_schema()["properties"]["runner_config"], editor_schema())["epochs"]
    assert described["description"] == "passes over the training data. 训练数据的遍历轮数。"
    assert {"type": "null"} in described["anyOf"]
