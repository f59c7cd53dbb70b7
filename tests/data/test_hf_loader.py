"""HFDataLoader, AlpacaInstructDataHandler and PackingHandler: sections of MindFormers 2.x on local files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm.config.loader import read_yaml
from mindformers_glm.data.build import build_dataset
from mindformers_glm.data.hf_loader import HFDataLoader
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.tokenizers import Message, Renderer

ROWS = [
    {"instruction": f"说第 {i} 句", "input": "快" * (i % 3), "output": f"第 {i} 句" * (i % 4 + 1)} for i in range(12)
]
SECTION = """
train_dataset:
  input_columns: ["input_ids", "labels", "loss_mask", "position_ids", "attention_mask"]
  construct_args_key: ["input_ids", "labels", "loss_mask", "position_ids", "attention_mask"]
  data_loader:
    type: HFDataLoader
    load_func: 'load_dataset'
    path: "json"
    data_files: FILE
    split: "train"
    create_attention_mask: True
    create_compressed_eod_mask: False
    compressed_eod_mask_length: 128
    use_broadcast_data: True
    shuffle: False
    handler:
      - type: take
        n: 10
      - type: AlpacaInstructDataHandler
        seq_length: 64
        padding: False
        tokenizer:
          pretrained_model_dir: FOLDER
          trust_remote_code: True
          padding_side: 'right'
      - type: PackingHandler
        seq_length: 64
        pack_strategy: 'pack'
  num_parallel_workers: 8
  python_multiprocessing: False
  drop_remainder: True
  numa_enable: False
  prefetch_size: 1
  seed: 1234
"""


@pytest.fixture(scope="module")
def assets(root):
    return root / "mindformers_glm/assets/glm2_tiny"


@pytest.fixture(scope="module")
def tokenizer(assets):
    return tokenizer_from(assets)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def ids_file(tmp_path, rows):
    path = tmp_path / "ids.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_section_of_the_guide_trains_what_the_rows_apart_hold(file, assets, tokenizer, tmp_path):
    (tmp_path / "a.yaml").write_text(SECTION.replace("FILE", str(file)).replace("FOLDER", str(assets)))
    section = read_yaml(tmp_path / "a.yaml")["train_dataset"]
    made = build_dataset(section, task={"type": "CausalLanguageModelDataset"}, seed=None, batch_size=1)
    renderer, apart = Renderer(tokenizer), []
    for row in ROWS[:10]:
        asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        apart.append(renderer.example([Message("user", asked), Message("assistant", row["output"])]))
    found = []
    for batch in made.batches(0):
        ids, labels, first = batch.input_ids[0], batch.labels[0], batch.first_visible[0]
        assert len(ids) == 64
        for start in np.unique(first):
            part = first == start
            found.append((ids[part].tolist(), labels[part].tolist()))
    whole = [part for part in found if any(label != -100 for label in part[1])]
    assert whole == [(list(one.ids), list(one.labels)) for one in apart]
    assert len(made) < 10


def test_mindformers_packs_with_its_own_labels(golden, tmp_path):
    folder = golden / "megatron_data/packing"
    read = json.loads((folder / "rows.json").read_text())
    expected = json.loads((folder / "mindformers_pack.json").read_text())
    handler = {"type": "PackingHandler", "seq_length": read["seq_length"], "label_convention": "2.1"}
    loader = HFDataLoader(path="json", data_files=str(ids_file(tmp_path, read["rows"])), handler=[handler])
    examples = loader.rows_of(2048)
    assert [example.input_ids for example in examples] == expected["input_ids"]
    assert [example.labels for example in examples] == expected["labels"]
    ends = [[*np.flatnonzero(np.diff(example.first_visible)) + 1, example.used] for example in examples]
    assert [sorted(set(map(int, row))) for row in ends] == expected["actual_seq_len"]
    plain = HFDataLoader(path="json", data_files=str(loader.files[0]), handler={**handler, "label_convention": None})
    for one, other in zip(plain.rows_of(2048), examples, strict=True):
        differs = [place for place, pair in enumerate(zip(one.labels, other.labels, strict=True)) if len(set(pair)) > 1]
        assert all(one.labels[place] == -100 and other.labels[place] == 0 for place in differs)


def test_truncating_cuts_the_stream_and_never_looks_into_another_row(tmp_path):
    rows = [{"input_ids": list(range(10 * i, 10 * i + size)), "labels": list(range(10 * i, 10 * i + size))}
            for i, size in enumerate((5, 9, 3), 1)]  # fmt: skip
    handler = [{"type": "PackingHandler", "seq_length": 8, "pack_strategy": "truncate"}]
    examples = HFDataLoader(path="json", data_files=str(ids_file(tmp_path, rows)), handler=handler).rows_of(8)
    assert [e.input_ids for e in examples] == [
        [10, 11, 12, 13, 14, 20, 21, 22], [23, 24, 25, 26, 27, 28, 30, 31], [32, 0, 0, 0, 0, 0, 0, 0],
    ]  # fmt: skip
    no = -100
    assert [e.labels for e in examples] == [
        [11, 12, 13, 14, no, 21, 22, 23], [24, 25, 26, 27, 28, no, 31, 32], [no] * 8,
    ]  # fmt: skip
    assert [e.first_visible for e in examples] == [
        [0, 0, 0, 0, 0, 5, 5, 5], [0, 0, 0, 0, 0, 0, 6, 6], [0, 1, 1, 1, 1, 1, 1, 1],
    ]  # fmt: skip
    assert [e.used for e in examples] == [8, 8, 1]


@pytest.mark.parametrize("shifted", [False, True])
def test_rows_of_ids_are_shifted_once(tmp_path, shifted):
    ids = [5, 6, 7, 8, 9]
    labels = [-100, 7, 8, 9, -100] if shifted else [-100, -100, 7, 8, 9]
    source = ids_file(tmp_path, [{"input_ids": ids, "labels": labels}] * 2)
    for handler in (None, [{"type": "PackingHandler", "seq_length": 7}]):
        (example, *_) = HFDataLoader(data_files=str(source), handler=handler).rows_of(7)
        assert example.labels == [-100, 7, 8, 9, -100, -100, -100]


def test_the_words_of_mindformers_template(file, tokenizer):
    handler = [{"type": "AlpacaInstructDataHandler", "seq_length": 400, "template": "mindformers"}]
    example = HFDataLoader(data_files=str(file), handler=handler).rows_of(64, tokenizer)[1]
    text = tokenizer.decode(example.input_ids[: example.used])
    assert "### Instruction:\n说第 1 句\n\n### Input:\n快\n\n### Response: ASSISTANT: 第 1 句" in text.replace(
        "  ", " "
    )
    learned = [label for label in example.labels if label != -100]
    assert learned[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(learned[:-1]).strip() == "ASSISTANT: 第 1 句第 1 句"


def test_rows_without_a_handler_are_read_by_their_columns(file, assets):
    section = {
        "data_loader": {"type": "HFDataLoader", "path": "json", "data_files": {"train": str(file)}},
        "tokenizer": {"type": "ChatGLM2Tokenizer", "vocab_file": str(assets / "tokenizer.model")},
        "seq_length": 64,
    }
    made = build_dataset(section, task={"type": "CausalLanguageModelDataset"}, seed=0, batch_size=2)
    assert type(made).__name__ == "MultiTurnDataset"
    assert made.num_rows == 12


@pytest.mark.parametrize(
    ("handler", "kept"),
    [
        ([{"type": "skip", "n": 9}], [9, 10, 11]),
        ([{"type": "select", "indices": [3, 1]}], [3, 1]),
        ([{"type": "take", "n": 2}, {"type": "remove_columns", "column_names": ["input"]}], [0, 1]),
        ([{"type": "shuffle", "seed": 42}], np.random.default_rng(42).permutation(12).tolist()),
    ],
)
def test_handlers_that_choose_rows(file, tokenizer, handler, kept):
    handler = [*handler, {"type": "AlpacaInstructDataHandler", "seq_length": 64}]
    examples = HFDataLoader(data_files=str(file), handler=handler).rows_of(64, tokenizer)
    learned = [tokenizer.decode([label for label in example.labels if label != -100]) for example in examples]
    assert [text.strip() for text in learned] == [ROWS[number]["output"] for number in kept]


@pytest.mark.parametrize(("split", "count"), [("train[:5]", 5), ("train[50%:]", 6), ("train[2:4]", 2)])
def test_slices_of_a_split(file, tokenizer, split, count):
    handler = [{"type": "AlpacaInstructDataHandler"}]
    loader = HFDataLoader(path=str(file.parent), split=split, handler=handler)
    assert len(loader.rows_of(64, tokenizer)) == count


def test_a_folder_gives_the_files_of_its_split(file, tokenizer):
    file.rename(file.parent / "train-00000-of-00001.jsonl")
    (file.parent / "test-00000-of-00001.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    for split, count in ((None, 12), ("test", 1)):
        loader = HFDataLoader(path=str(file.parent), split=split, handler=[{"type": "AlpacaInstructDataHandler"}])
        assert len(loader.rows_of(64, tokenizer)) == count


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"path": "llm-wizard/alpaca-gpt4-data"}, "Nothing is downloaded"),
        ({"path": "json"}, "data_files"),
        ({"handler": [{"type": "tak", "n": 1}]}, "No such handler"),
        ({"handler": [{"n": 1}]}, "needs a type"),
        ({"handler": [{"type": "take"}]}, "cannot be applied"),
        ({"handler": [{"type": "PackingHandler", "seq_length": 8, "pack_strategy": "neat"}]}, "pack_strategy"),
        ({"handler": [{"type": "PackingHandler", "seq_length": 8}]}, "holds no `input_ids`"),
        ({"handler": [{"type": "AlpacaInstructDataHandler"}]}, "pretrained_model_dir"),
        ({"load_func": "load"}, "load_from_disk"),
        ({"split": "train[:x]"}, "train\\[:100\\]"),
    ],
)
def test_what_is_wrong_is_one_line(file, words, said):
    given = words if "path" in words else {"data_files": str(file), **words}
    with pytest.raises((ConfigError, DataError), match=said):
        HFDataLoader(**given).rows_of(64)
