"""Running text and token files as rows, MindRecord files as they are."""

import json
import shutil

import numpy as np
import pytest

from mindformers_glm.data import CausalLanguageModelDataset, KeyWordGenDataset, MindDataset
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.tokenizers import ChatGLM2Tokenizer


@pytest.fixture(scope="module")
def glm2(root):
    return ChatGLM2Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


def text_rows(path, tokenizer, **more):
    loader = {"type": "TextDataLoader", "dataset_dir": str(path), "shuffle": False}
    given = {"data_loader": loader, "tokenizer": tokenizer, "seq_length": 16, "batch_size": 2, **more}
    return CausalLanguageModelDataset(**given)


def test_rows_hold_every_token_once(tmp_path, glm2):
    lines = ["第一段文字，有一些内容。", "", "Second paragraph, with words in it.", "三"] * 6
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    dataset = text_rows(tmp_path / "text.txt", glm2, drop_remainder=False)
    stream = [token for line in lines if line for token in [*glm2.encode(line, add_special_tokens=False), 2]]
    targets = []
    for batch in dataset.batches(0):
        assert (batch.input_ids[:, :2] == glm2.get_prefix_tokens()).all()
        assert (batch.labels[:, 0] == -100).all()
        assert (batch.labels[:, 1:-1] == batch.input_ids[:, 2:]).all()
        targets += [row[1:-1].tolist() for row in batch.labels]
    assert [token for row in targets for token in row] == stream[: len(targets) * 14]
    assert dataset.line(0) == 1
    assert dataset.line(dataset.num_rows - 1) > 18


def test_one_document_for_each_row(tmp_path, glm2):
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"body": "字" * n}) for n in (2, 40)), encoding="utf-8")
    loader = {"type": "TextDataLoader", "dataset_dir": str(path), "shuffle": False, "text_column": "body"}
    dataset = text_rows(path, glm2, data_loader=loader, packing=False)
    short, long = dataset.example(0), dataset.example(1)
    assert 2 in short.labels
    assert 16 - short.labels.count(-100) == len(glm2.encode("字字", add_special_tokens=False)) + 1
    assert (short.cut, long.cut) == (False, True)
    assert 2 not in long.labels
    assert dataset.line(1) == 2


def test_token_files_are_mapped(tmp_path, glm2):
    tokens = np.arange(100, 200, dtype=np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    loader = {"type": "TokenDataLoader", "dataset_dir": str(tmp_path / "tokens.npy"), "shuffle": False}
    dataset = text_rows(None, glm2, data_loader=loader)
    assert isinstance(dataset.stream, np.memmap)
    assert dataset.example(1).labels[1:] == list(range(114, 129))
    np.save(tmp_path / "tokens.npy", tokens.astype(np.int64) + 70000)
    with pytest.raises(DataError, match="beyond the tokenizer"):
        text_rows(None, glm2, data_loader=loader)
    for content in (np.zeros((2, 2), int), np.zeros(3), np.array([{}], dtype=object)):
        np.save(tmp_path / "tokens.npy", content, allow_pickle=True)
        with pytest.raises(DataError, match="integer|not a .npy"):
            text_rows(None, glm2, data_loader=loader)


def test_text_that_is_none(tmp_path, glm2):
    (tmp_path / "a.txt").write_bytes(b"\xff\xff\n\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        text_rows(tmp_path / "a.txt", glm2)
    (tmp_path / "b.jsonl").write_text('{"txt": "x"}')
    with pytest.raises(DataError, match="no text under 'text'"):
        text_rows(tmp_path / "b.jsonl", glm2)
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(ConfigError, match="seq_length"):
        text_rows(tmp_path / "c.txt", glm2, seq_length=3)


@pytest.fixture
def records(golden, tmp_path):
    for suffix in ("", ".db"):
        shutil.copy(golden / f"mindformers_r08/training/train_small.mindrecord{suffix}", tmp_path)
    return tmp_path


def test_mindrecord_rows_are_taken_as_written(golden, records):
    expected = np.load(golden / "mindformers_r08/training/train_small.npz")
    for place in (records, records / "train_small.mindrecord"):
        loader = {"type": "MindDataset", "dataset_dir": str(place), "shuffle": False}
        dataset = KeyWordGenDataset(data_loader=loader, batch_size=8)
        batches = list(dataset.batches(0))
        np.testing.assert_array_equal(np.concatenate([b.input_ids for b in batches]), expected["input_ids"])
        np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), expected["labels"])
    assert sorted(np.concatenate([b.rows for b in batches])) == list(range(1, 65))


def test_mindrecord_without_labels_is_shifted(records):
    file = str(records / "train_small.mindrecord")
    loader = MindDataset(dataset_files=file, columns_list=["input_ids"], shuffle=False, num_samples=4)
    dataset = CausalLanguageModelDataset(data_loader=loader, batch_size=2)
    whole = MindDataset(dataset_files=[file], shuffle=False).rows[0].input_ids
    example = dataset.example(0)
    assert example.input_ids == whole[:-1]
    assert example.labels == [-100 if token == 0 else token for token in whole[1:]]
    assert dataset.num_rows == 4


def test_mindrecord_that_is_none(tmp_path):
    (tmp_path / "x.mindrecord").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        MindDataset(str(tmp_path / "x.mindrecord"))
    with pytest.raises(DataError, match="no such file"):
        MindDataset(str(tmp_path / "y.mindrecord"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no .mindrecord"):
        MindDataset(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="dataset_dir"):
        MindDataset()
