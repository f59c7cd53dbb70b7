"""Data files as people have them: tables, compressed, wrapped, spread over lines, in other encodings, or no data."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile

import pytest

from mindformers_glm.data import ADGenDataLoader, AlpacaDataLoader, ShareGPTDataLoader
from mindformers_glm.data.record import Fault
from mindformers_glm.data.records import read_records
from mindformers_glm.data.source import data_file
from mindformers_glm.errors import DataError
from mindformers_glm.log import logger

ROWS = [{"content": f"问{n}", "summary": f"答{n}"} for n in range(3)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
PRETTY = "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in ROWS)


def write(folder, content, name="train.json"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: found.append(message % values))
    return found


def tarred(text):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("train.json")
        info.size = len(text.encode())
        archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.json", PRETTY, [1, 5, 9]),
        ("a.json", PRETTY.replace("}\n{", "},\n{"), [1, 5, 9]),
        ("a.json", json.dumps({"version": 1, "data": ROWS}, ensure_ascii=False), [1, 1, 1]),
        ("a.json", json.dumps({"note": {"by": "me"}, "data": ROWS}, ensure_ascii=False, indent=1), [6, 10, 14]),
        ("a.json", json.dumps({k: {str(n): r[k] for n, r in enumerate(ROWS)} for k in ROWS[0]}), [1, 1, 1]),
        ("a.csv", "content,summary\n" + "\n".join(f"问{n},答{n}" for n in range(3)), [2, 3, 4]),
        ("a.csv", "\ufeffcontent;summary\r\n" + "\r\n".join(f"问{n};答{n}" for n in range(3)), [2, 3, 4]),
        ("a.tsv", "content\tsummary\n" + "\n".join(f"问{n}\t答{n}" for n in range(3)), [2, 3, 4]),
        ("a.csv", LINES, [1, 2, 3]),
        ("a.jsonl.gz", gzip.compress(LINES.encode()), [1, 2, 3]),
        ("a.json", gzip.compress(LINES.encode()), [1, 2, 3]),
        ("a.jsonl.bz2", bz2.compress(LINES.encode()), [1, 2, 3]),
        ("a.jsonl.xz", lzma.compress(LINES.encode()), [1, 2, 3]),
        ("a.csv.gz", gzip.compress("content,summary\n问0,答0\n问1,答1\n问2,答2".encode()), [2, 3, 4]),
    ],
)
def test_rows_and_their_lines(tmp_path, warnings, name, content, lines):
    rows = ADGenDataLoader(str(write(tmp_path, content, name))).rows
    assert [(row.line, row.prompt, row.answer) for row in rows] == [
        (line, f"问{n}", f"答{n}") for n, line in enumerate(lines)
    ]
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.json",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "git-lfs pointer.*git lfs pull",
        ),
        ("a.parquet.json", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.json", "\n<!DOCTYPE html><html><body>login</body></html>", "web page"),
        ("a.csv", "<html></html>", "web page"),
        ("a.json", LINES.encode("gbk"), r"3 of 3 lines are not UTF-8; it reads as GBK. Save the file as UTF-8: iconv"),
        ("a.json", f"[{LINES.replace(chr(10), ',')}]".encode("gb18030"), "not UTF-8 at byte .*Save the file as UTF-8"),
        ("a.csv", "content,summary\n问,答".encode("gbk"), "Save the file as UTF-8"),
        ("a.json", PRETTY.encode("gbk"), "Save the file as UTF-8"),
        ("a.json", LINES.encode("utf-16"), "UTF-16. Save the file as UTF-8"),
        ("a.json", LINES.encode("utf-16-le"), "UTF-16. Save the file as UTF-8"),
        ("a.json", LINES.encode("utf-16-be"), "UTF-16. Save the file as UTF-8"),
        ("a.tar", tarred(LINES), "archive.*tar -xf"),
        ("a.tar.gz", gzip.compress(tarred(LINES)), "archive.*tar -xf"),
        ("a.tgz", gzip.compress(tarred(LINES)), "archive.*tar -xf"),
        ("a.xlsx", b"PK\x03\x04" + bytes(600), r"\.xlsx is not read.*CSV UTF-8"),
        ("a.json", b"PK\x03\x04" + bytes(600), "zip archive or a spreadsheet"),
        ("a.json.zst", b"\x28\xb5\x2f\xfd" + bytes(90), "zstd -d"),
        ("a.mindrecord", b"\x00" * 64, "MindDataset"),
        ("a.npy", b"\x93NUMPY" + bytes(64), "TokenDataLoader"),
        ("a.json", b"\x7fELF\x02\x01\x01" + bytes(64), "not text"),
        ("a.json.gz", gzip.compress(LINES.encode())[:-9], "damaged"),
        ("a.csv", "content,content\n1,2", "name the columns"),
        ("a.csv", "content,summary\n", "holds no records"),
    ],
)
def test_what_is_no_data_is_told_in_one_line(tmp_path, name, content, words):
    path = write(tmp_path, content, name)
    with pytest.raises(DataError, match=words) as caught:
        ADGenDataLoader(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("mindformers_glm.data.source.UNPACKED_AT_LEAST", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than 1 MB"):
        ADGenDataLoader(str(write(tmp_path, gzip.compress(b" " * (3 << 20)), "a.json.gz")))


def test_some_lines_in_another_encoding_are_faults_of_these_lines(tmp_path, warnings):
    raw = LINES.encode() + b"\n" + LINES.splitlines()[0].encode("gbk")
    assert len(ADGenDataLoader(str(write(tmp_path, raw))).rows) == 3
    assert "1 of 4 records cannot be used: line 4: not UTF-8" in warnings[0]


def test_a_broken_object_among_others_is_one_fault(tmp_path, warnings):
    broken = PRETTY.replace('"summary": "答1"', '"summary": 答1')
    assert [row.line for row in ADGenDataLoader(str(write(tmp_path, broken))).rows] == [1, 9]
    assert "1 of 3 records cannot be used: line 5: not JSON" in warnings[0]


def test_broken_quotes_and_extra_cells_are_faults_of_their_rows(tmp_path, warnings):
    text = 'content,summary\n"a\nb","x, ""y"""\nc,d,e\n"f"g,h\ni,j\n"k,l\nm,n'
    found = list(read_records(write(tmp_path, text, "a.csv")))
    values = [(record.line, record.value["content"]) for record in found if not isinstance(record, Fault)]
    assert values == [(2, "a\nb"), (6, "i"), (8, "m")]
    assert found[0].value["summary"] == 'x, "y"'
    assert [record.line for record in found if isinstance(record, Fault)] == [4, 5, 7]


def test_half_a_character_is_a_fault_and_not_a_crash_while_training(tmp_path, warnings):
    rows = [*ROWS, {"content": "\ud83d", "summary": "x"}, {"content": "y", "summary": "\udc00"}]
    assert len(ADGenDataLoader(str(write(tmp_path, "\n".join(map(json.dumps, rows))))).rows) == 3
    assert "line 4: 'content' holds half a character" in warnings[0]


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = write(tmp_path, LINES)
    opened = type(path).open

    def refusing(self, *args, **kwargs):
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(type(path), "open", refusing)
    with pytest.raises(DataError, match="may not be read"):
        data_file(path, "train")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no regular file"):
        data_file(tmp_path / "pipe", "train")
    with pytest.raises(DataError, match="cannot be read"):
        data_file("x" * 5000, "train")


@pytest.mark.parametrize(
    ("loader", "row", "words"),
    [
        (ADGenDataLoader, {"instruction": "a", "input": "", "output": "b"}, "AlpacaDataLoader.*MultiTurnDataset"),
        (ADGenDataLoader, {"prompt": "a", "response": "b"}, "columns: {'prompt': 'prompt', 'response': 'response'}"),
        (ADGenDataLoader, {"messages": [{"role": "user", "content": "a"}]}, "ConversationDataLoader"),
        (ADGenDataLoader, {"conversations": [{"from": "human", "value": "a"}]}, "ShareGPTDataLoader"),
        (ADGenDataLoader, {"text": "long"}, "TextDataLoader.*CausalLanguageModelDataset"),
        (AlpacaDataLoader, {"content": "a", "summary": "b"}, "ADGenDataLoader"),
        (ShareGPTDataLoader, {"instruction": "a", "output": "b"}, "AlpacaDataLoader"),
        (AlpacaDataLoader, {"prompt": "a", "chosen": "b", "rejected": "c"}, "DPO"),
    ],
)
def test_the_error_names_the_loader_of_these_columns(tmp_path, loader, row, words):
    with pytest.raises(DataError, match=words):
        loader(str(write(tmp_path, json.dumps(row))))


def test_columns_that_change_what_is_learned_are_named_when_nobody_reads_them(tmp_path, warnings):
    rows = [{"instruction": "q", "input": "i", "output": "a", "system": "", "id": 1}] * 2
    path = str(write(tmp_path, json.dumps(rows)))
    ADGenDataLoader(path, origin_columns=["instruction", "output"])
    assert "ADGenDataLoader does not read the columns `input` (2 rows)" in warnings[0]
    AlpacaDataLoader(path)
    assert len(warnings) == 1
