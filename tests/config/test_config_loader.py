from __future__ import annotations

import pytest

from mindformers_glm.config.loader import merge, read_yaml, reads_as_text
from mindformers_glm.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def make(text, name="run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-5", 1e-5), ("5.e-5", 5e-5), ("1.e-8", 1e-8), ("-2E3", -2000.0), (".5", 0.5), ("1e3", 1000.0), ("3", 3),
        ("None", None), ("null", None), ("~", None), ("", None), ("True", True), ("false", False), ("'1e-5'", "1e-5"),
        ("2024-01-11", "2024-01-11"), ("30GB", "30GB"), ("1.0.2", "1.0.2"), ("e5", "e5"), ("Nonesuch", "Nonesuch"),
        (".*query_key_value*", ".*query_key_value*"), ("[1e-3, None]", [1e-3, None]),
    ],
)  # fmt: skip
def test_words_mean_what_they_look_like(write, written, meant):
    value = read_yaml(write(f"key: {written}\n"))["key"]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize("word", ["None", "1e-5", "True", "12", "null", "", "a: b", "- x"])
def test_words_that_need_quotes_are_known(word):
    assert not reads_as_text(word)


def test_an_anchored_dataset_stands_once(write):
    path = write(
        "train_dataset: &train_dataset\n  batch_size: 4\n"
        "train_dataset_task:\n  type: KeyWordGenDataset\n  dataset_config: *train_dataset\n"
    )
    assert read_yaml(path) == {"train_dataset": {"batch_size": 4}, "train_dataset_task": {"type": "KeyWordGenDataset"}}


def test_a_dataset_under_its_task_only_is_found(write):
    path = write("eval_dataset_task:\n  type: KeyWordGenDataset\n  dataset_config:\n    batch_size: 4\n")
    assert read_yaml(path)["eval_dataset"] == {"batch_size": 4}


def test_base_config_is_relative_recursive_and_merged_deep(write):
    write("context: {mode: 1, device_id: 3}\ncallbacks: [{type: A}, {type: B}]\n", "base/deep/first.yaml")
    write("base_config: deep/first.yaml\ncontext: {mode: 0}\nseed: 1\n", "base/second.yaml")
    write("seed: 2\nrun_mode: eval\n", "other.yaml")
    path = write("base_config: [base/second.yaml, other.yaml]\ncallbacks: [{type: C}]\n")
    assert read_yaml(path) == {
        "context": {"mode": 0, "device_id": 3}, "seed": 2, "run_mode": "eval", "callbacks": [{"type": "C"}],
    }  # fmt: skip


def test_an_override_of_the_dataset_reaches_the_linked_one_of_the_base(write):
    write("train_dataset: &d {batch_size: 4, seed: 1}\ntrain_dataset_task: {dataset_config: *d}\n", "base.yaml")
    path = write("base_config: base.yaml\ntrain_dataset: {batch_size: 8}\n")
    assert read_yaml(path)["train_dataset"] == {"batch_size": 8, "seed": 1}


def test_merge_leaves_its_arguments_alone():
    base = {"a": {"b": [1]}}
    merged = merge(base, {"a": {"c": 2}})
    merged["a"]["b"].append(5)
    assert base == {"a": {"b": [1]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The file is empty"),
        ("# only a comment\n", "The file is empty"),
        ("- a\n- b\n", "not `key: value` lines"),
        ("seed: 1\nmodel: [1, 2\n", "line 3"),
        ("seed: 1\n\tmodel: 2\n", "line 2"),
        ("seed: 1\nmodel:\n  a: 1\nseed: 2\n", "'seed' is written twice"),
        ("context: *nothing\n", "undefined alias 'nothing'"),
        ("1: a\n", "Keys must be text"),
        ("a: &a\n  b: *a\n", "contains itself"),
        ("a: !!python/object/apply:os.system ['echo']\n", "not valid YAML"),
        ("base_config: 3\n", "one file name or a list"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_in_one_line(write, text, said):
    with pytest.raises(ConfigError) as caught:
        read_yaml(write(text))
    assert said in str(caught.value)
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml.*no such file"):
        read_yaml(tmp_path / "nope.yaml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="folder"):
        read_yaml(tmp_path)


def test_a_missing_base_is_named(write, tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml.*no such file"):
        read_yaml(write("base_config: gone.yaml\n"))


def test_bases_in_a_circle_are_refused(write):
    write("base_config: run.yaml\n", "other.yaml")
    with pytest.raises(ConfigError, match=r"run.yaml -> other.yaml -> run.yaml"):
        read_yaml(write("base_config: other.yaml\n"))


def test_text_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("name: 北京".encode("gbk"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\n", encoding="utf-8-sig")
    assert read_yaml(path) == {"seed": 3}
