from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_glm.config.overrides import apply, parse_overrides, parse_value
from mindformers_glm.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("True", True), ("true", True), ("False", False), ("FALSE", False), ("None", None), ("null", None),
        ("8", 8), ("001", 1), ("-3", -3), ("1e3", 1000.0), ("1e-5", 1e-5), ("5.e-5", 5e-5), (".5", 0.5), ("1.", 1.0),
        ("[1,2]", [1, 2]), ("(1, 2)", [1, 2]), ("1,2", [1, 2]), ("content,summary", ["content", "summary"]),
        ("[content,summary]", ["content", "summary"]), ("['a', 'b']", ["a", "b"]), ('["a", 1]', ["a", 1]),
        ('{"type": "adamw"}', {"type": "adamw"}), ('"8"', "8"), ("'8'", "8"), ("it's", "it's"), ("'", "'"),
        ("./a/b,c", "./a/b,c"), ("a=b", "a=b"), ("", ""),
        ("glm2_6b", "glm2_6b"), ("你好，世界", "你好，世界"), ("1.0.2", "1.0.2"), ("[unclosed", "[unclosed"),
        (".*query_key_value*", ".*query_key_value*"),
    ],
)  # fmt: skip
def test_words(word, meant):
    value = parse_value(word)
    assert value == meant
    assert isinstance(value, type(meant))
    assert isinstance(value, bool) == isinstance(meant, bool)


def test_every_form_of_an_override():
    tokens = ["a.b=1", "--a.c", "true", "--d=x=y", "--e.0.f", "-1", "a.b=2"]
    assert parse_overrides(tokens) == {"a": {"b": 2, "c": True}, "d": "x=y", "e": {"0": {"f": -1}}}


@pytest.mark.parametrize("tokens", [["--a.b"], ["--a.b", "--c=1"], ["value"], ["a..b=1"], ["=1"], ["--=1"]])
def test_half_an_override_is_refused(tokens):
    with pytest.raises(ConfigError):
        parse_overrides(tokens)


def test_the_linked_dataset_is_the_dataset():
    assert parse_overrides(["train_dataset_task.dataset_config.batch_size=4"]) == {"train_dataset": {"batch_size": 4}}


def test_json_replaces_and_dotted_keys_change():
    values = {"optimizer": {"type": "adam", "eps": 1}}
    assert apply(values, parse_overrides(["optimizer.type=sgd"])) == {"optimizer": {"type": "sgd", "eps": 1}}
    assert apply(values, parse_overrides(['optimizer={"type": "sgd"}'])) == {"optimizer": {"type": "sgd"}}
    both = parse_overrides(['--optimizer={"type": "sgd"}', "--optimizer.momentum", "0.9"])
    assert type(apply(values, both)["optimizer"]) is dict
    assert apply(values, both) == {"optimizer": {"type": "sgd", "momentum": 0.9}}


def test_a_key_below_the_value_of_another_override():
    with pytest.raises(ConfigError, match="An earlier override gives `a` the value 1"):
        parse_overrides(["a=1", "a.b=2"])


def test_items_of_a_list_are_numbered_from_0():
    values = {"callbacks": [{"type": "A"}, {"type": "B", "prefix": "x"}]}
    changed = apply(values, parse_overrides(["callbacks.1.prefix=y", "callbacks.0.every=3"]))
    assert changed == {"callbacks": [{"type": "A", "every": 3}, {"type": "B", "prefix": "y"}]}
    assert values == {"callbacks": [{"type": "A"}, {"type": "B", "prefix": "x"}]}


def test_an_item_that_is_not_there():
    with pytest.raises(ConfigError, match=r"callbacks.2: got .*has 1 items"):
        apply({"callbacks": [{}]}, {"callbacks": {"2": {"prefix": "x"}}})


def test_a_key_below_a_plain_value():
    with pytest.raises(ConfigError, match=r"seed.x: got 1. `seed` is 0 and has no keys below it"):
        apply({"seed": 0}, {"seed": {"x": 1}})


@given(st.text(max_size=30))
def test_any_word_is_read_without_an_exception(word):
    parse_value(word)


@given(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)))
def test_what_python_prints_is_read_back(value):
    assert parse_value(repr(value)) == value
