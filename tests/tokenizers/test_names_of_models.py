"""Wherever a tokenizer is asked for, the name of a model whose vocabulary is here stands for it; a path wins."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.checkpoint.convert.job import tokenizer_folder
from mindformers_glm.cli import inspect_data, preprocess, preview_data
from mindformers_glm.config.names import ASSETS
from mindformers_glm.errors import DataError
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, files

NAME = "glm2_tiny"
FILE = ASSETS / NAME / "tokenizer.model"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    turn = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
    path.write_text("".join(json.dumps({"messages": turn}, ensure_ascii=False) + "\n" for _ in range(3)))
    return path


@pytest.mark.parametrize("kind", [ChatGLM2Tokenizer, ChatGLM3Tokenizer])
def test_classes_take_a_name(kind):
    assert kind.from_pretrained(NAME).vocab_file == kind(NAME).vocab_file == str(FILE)


def test_a_folder_is_found_by_name():
    assert files.load(NAME)[0] == FILE
    assert tokenizer_folder(NAME) == FILE.parent
    assert tokenizer_from(NAME).encode("你好") == tokenizer_from(FILE.parent).encode("你好")


@pytest.mark.parametrize("kind", [[], ["--tokenizer_type", "ChatGLM3Tokenizer"]])
def test_inspecting_takes_a_name(rows, capsys, kind):
    told = []
    for place in (NAME, str(FILE.parent)):
        inspect_data.main([str(rows), "--tokenizer", place, *kind])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] and "3" in told[0]


def test_previewing_takes_a_name(rows, capsys):
    words = ["--data", str(rows), "--data_loader", "ToolAlpacaDataLoader", "--dataset_type", "MultiTurnDataset"]
    told = []
    for place in (NAME, str(FILE)):
        preview_data.main([*words, "--tokenizer", place, "--tokenizer_type", "ChatGLM3Tokenizer"])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] and "你好" in told[0]


def test_preprocessing_takes_a_name(tmp_path):
    source = tmp_path / "corpus.jsonl"
    source.write_text('{"text": "你好"}\n{"text": "再见"}\n')
    preprocess.main(
        ["--input", str(source), "--tokenizer-name-or-path", NAME, "--output-prefix", str(tmp_path / "out")]
    )
    assert list(tmp_path.glob("out*.bin"))


def test_a_path_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(DataError, match="no tokenizer.model"):
        files.load(NAME)


def test_an_unknown_name_is_told_which_there_are():
    with pytest.raises(DataError, match="whose tokenizer is here: .*glm2_tiny"):
        files.load("glm9_tiny")
