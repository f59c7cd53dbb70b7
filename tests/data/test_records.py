"""Files as people have them: JSON lines and arrays, BOM, bad lines with their numbers, and files that are none."""

import json

import pytest

from mindformers_glm.data import ADGenDataLoader
from mindformers_glm.data.records import Fault, Record, read_records
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.log import logger
from mindformers_glm.registry import DATA_LOADERS

GOOD = {"content": "类型#裙", "summary": "好裙子。"}


def line(value=None):
    return json.dumps(value or GOOD, ensure_ascii=False)


def write(folder, text, name="train.json", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return str(path)


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: found.append(message % values))
    return found


def test_hostile_file_of_the_reference_run(golden, warnings):
    loader = ADGenDataLoader(str(golden / "mindformers_r08/dataset/adgen_hostile.json"))
    assert [row.line for row in loader.rows] == [1, 8, 9, 10, 11]
    (message,) = warnings
    for words in ("4 of 9 records", "line 4: 'summary' is blank", "line 6: no column 'summary'", "line 7: not JSON"):
        assert words in message


@pytest.mark.parametrize("head", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_with_bom_and_windows_ends(tmp_path, head, end):
    path = write(tmp_path, head + end.join([line(), "", line({"content": "a\u2028b", "summary": "c"}), "  "]))
    rows = ADGenDataLoader(path).rows
    assert [(row.line, row.prompt) for row in rows] == [(1, "类型#裙"), (3, "a\u2028b")]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_tells_the_line_of_each_element(tmp_path, indent):
    path = write(tmp_path, "\ufeff" + json.dumps([GOOD, GOOD, {"content": "x", "summary": ""}], indent=indent))
    loader = ADGenDataLoader(path)
    assert [row.line for row in loader.rows] == ([2, 6] if indent else [1, 1])
    assert list(read_records(loader.path))[2].value == {"content": "x", "summary": ""}


def test_lines_that_open_with_a_bracket_are_lines(tmp_path):
    path = write(tmp_path, f"[1]\n{line()}\n{line()}")
    assert [row.line for row in ADGenDataLoader(path).rows] == [2, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[{line()},\n{line()}", "breaks off at line 2"),
        (f"[{line()},\n{line()[:9]}", "breaks at line 2"),
        (f"[{line()}\n{line()}]", "breaks off at line 2"),
        (f"[\n{line()}\n] 1", "more after"),
        ("[", "breaks at line 1"),
        ("[" * 100_000, "breaks at line 1"),
        (f"[{line()}".encode("gbk"), "not UTF-8"),
    ],
)
def test_a_broken_array_is_refused_as_a_whole(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        ADGenDataLoader(write(tmp_path, text))


def test_faults_do_not_stop_the_others(tmp_path, warnings):
    deep = '{"content": ' + "[" * 100_000
    bad = [b'{"content": 1, "summary": "x"}', b"\xff\xfe", b"[]", deep.encode(), b"1" * 5000]
    path = write(tmp_path, b"\n".join([line().encode()] * 6 + bad))
    assert len(ADGenDataLoader(path).rows) == 6
    for words in ("line 7: 'content' is not text but int", "line 8: not UTF-8", "line 9: not an object but list"):
        assert words in warnings[0]
    assert isinstance(list(read_records(tmp_path / "train.json"))[0], Record)
    assert Fault(3, "why").__str__() == "line 3: why"


def test_many_faults_are_counted_and_a_threshold_stops(tmp_path, warnings):
    path = write(tmp_path, "\n".join([line()] * 20 + ["{"] * 9))
    assert len(ADGenDataLoader(path).rows) == 20
    assert "9 of 29 records" in warnings[0]
    assert "and 4 more" in warnings[0]
    with pytest.raises(DataError, match="9 of 29"):
        ADGenDataLoader(path, max_bad_ratio=0.1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such data file"),
        ("", "data file is empty"),
        ("\n\n", "holds no records"),
        ("not json\n{", "line 1: not JSON"),
        (line({"question": "a", "answer": "b"}), "no column 'content' among question, answer"),
        (line().encode("utf-16"), "not UTF-8"),
        ("[]", "holds no records"),
        ('{"data": 1}', "no column 'content' among data"),
    ],
)
def test_a_file_without_a_usable_line_is_an_error_of_one_line(tmp_path, content, words):
    path = str(tmp_path / "train.json") if content is None else write(tmp_path, content)
    with pytest.raises(DataError, match=words) as caught:
        ADGenDataLoader(path)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


def test_a_folder_and_a_missing_path_name_the_option(tmp_path):
    write(tmp_path, line())
    with pytest.raises(DataError, match="it holds train.json.*--train_dataset_dir"):
        ADGenDataLoader(str(tmp_path))
    with pytest.raises(DataError, match="--eval_dataset_dir"):
        ADGenDataLoader(str(tmp_path / "x.json"), phase="eval")
    with pytest.raises(ConfigError, match="--train_dataset_dir"):
        ADGenDataLoader("")


def test_wrong_settings_name_their_key(tmp_path):
    path = write(tmp_path, line())
    for given, words in (
        ({"origin_columns": ["content"]}, "origin_columns"),
        ({"phase": "test"}, "phase"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_shards": 2}, "num_shards"),
    ):
        with pytest.raises(ConfigError, match=words):
            ADGenDataLoader(path, **given)
    faults = DATA_LOADERS.check({"type": "ADGenDataLoader", "dataset_dir": path, "shufle": True}, "data_loader")
    assert "shuffle" in str(faults[0])


def test_other_columns_and_fewer_samples(tmp_path):
    path = write(tmp_path, "\n".join(line({"q": str(n), "a": "x"}) for n in range(5)))
    loader = ADGenDataLoader(path, origin_columns=["q", "a"], num_samples=3)
    assert [row.prompt for row in loader.rows] == ["0", "1", "2"]
    assert (loader.shuffle, ADGenDataLoader(path, "eval", origin_columns=["q", "a"]).shuffle) == (True, False)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.table({"content": ["a", "b", None], "summary": ["x", "y", "z"]}), path)
    assert [row.answer for row in ADGenDataLoader(str(path)).rows] == ["x", "y"]
    write(tmp_path, "x", "no.parquet")
    with pytest.raises(DataError, match="not a parquet file"):
        ADGenDataLoader(str(tmp_path / "no.parquet"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    import sys

    path = write(tmp_path, "x", "train.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"mindformers_glm\[parquet\]"):
        ADGenDataLoader(path)
