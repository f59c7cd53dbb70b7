"""A YAML of any kind is answered in bounded bytes and seconds, with one line."""

from __future__ import annotations

import os

import pytest

from mindformers_glm.config.bounds import MOST_BYTES, fullwidth_hint
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.overrides import parse_value
from mindformers_glm.errors import ConfigError

LEVELS = "abcdefghij"


def bomb(first: str, next_one: str) -> str:
    lines = [f"a: &a {first}"]
    lines += [
        f"{name}: &{name} {next_one.format(*[f'*{before}'] * 9)}"
        for before, name in zip(LEVELS, LEVELS[1:], strict=False)
    ]
    return "\n".join(lines)


HOSTILE = {
    "sequences": bomb("[x, x]", "[{}, {}, {}, {}, {}, {}, {}, {}, {}]"),
    "mappings": bomb("{x: 1}", "{{p: {}, q: {}, r: {}, s: {}, t: {}, u: {}, v: {}, w: {}, x: {}}}"),
    "merge keys": bomb("{x: 1}", "{{<<: [{}, {}, {}, {}, {}, {}, {}, {}, {}]}}"),
    "depth": "a: " + "[" * 3000 + "]" * 3000,
    "depth of mappings": "".join(f"{' ' * level}k:\n" for level in range(300)),
    "size": "a: " + "x" * MOST_BYTES,
    "digits": "seed: " + "9" * 10_000,
    "a tag": "seed: !!int abc",
    "a tag of a float": "seed: !!float abc",
    "a tag of a switch": "seed: !!bool maybe",
    "a tag of a date": "seed: !!timestamp yesterday",
    "a tag of bytes": "seed: !!binary é",
    "a tag of a mapping": "seed: !!map [1]",
    "a tag of a set": "seed: !!set [1]",
    "a tag of code": "seed: !!python/name:os.system",
    "a control character": "seed: \x07",
    "a base that is a device": "base_config: /dev/zero",
    "a base with a null character": 'base_config: "a\\0b"',
    "a base with an endless name": f"base_config: {'x' * 5000}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, kind):
    path = tmp_path / "run.yaml"
    path.write_text(HOSTILE[kind], encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 or kind == "a base with an endless name"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="device or a pipe"):
        read_yaml(tmp_path / "run.yaml")


def test_files_that_include_each_other_twice_are_counted(tmp_path):
    (tmp_path / "0.yaml").write_text("seed: 1\n")
    for level in range(1, 30):
        (tmp_path / f"{level}.yaml").write_text(f"base_config: [{level - 1}.yaml, {level - 1}.yaml]\n")
    with pytest.raises(ConfigError, match="More than 64 files"):
        read_yaml(tmp_path / "29.yaml")


def test_a_loop_of_links_is_one_line(tmp_path):
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "a.yaml")


def test_anchors_of_every_day_use_are_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {x: 1, y: [2]}\nb: {<<: *a, z: 3}\nc: [*a, *a]\n")
    assert read_yaml(path) == {
        "a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2], "z": 3}, "c": [{"x": 1, "y": [2]}, {"x": 1, "y": [2]}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nrun_mode：predict\nload_checkpoint: x\n", "In line 2 stands a full-width colon (：): write `: `"),
        ("run_mode：predict\n", "In line 1 stands a full-width colon"),
        ("model: {a: 1，b: 2\nseed: 1\n", "In line 1 stands a full-width comma"),
        ("seed: 1\n\u3000run_mode: x\n\tmore: 2\n", "line 2 stands a full-width space"),
        ("seed: “1\n  - x: y\n", "In line 1 stands a typographic quote"),
    ],
)
def test_marks_of_a_chinese_keyboard_are_named(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert said in str(caught.value)


def test_full_width_marks_in_comments_and_quotes_mislead_nobody():
    assert fullwidth_hint('seed: 1  # 种子：一\nname: "你好：世界"\n', 1) == ""


def test_utf16_is_named(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 1\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="UTF-16 text: save it as UTF-8"):
        read_yaml(tmp_path / "run.yaml")


@pytest.mark.parametrize("word", ["9" * 5000, "[" + "9" * 5000 + "]", "[" * 5000, '{"a": ' * 3000])
def test_a_word_of_any_length_is_read(word):
    parse_value(word)
