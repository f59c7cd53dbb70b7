"""Packing: the packs of MindFormers and LLaMA-Factory, and rows that training takes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm.data.build import build_dataset
from mindformers_glm.data.packing import join, neat, sequential, truncated
from mindformers_glm.errors import ConfigError


@pytest.fixture(scope="module")
def packing(golden):
    folder = golden / "megatron_data/packing"
    read = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    rows = [(row["input_ids"], row["labels"]) for row in read["rows"]["rows"]]
    return rows, read["rows"]["seq_length"], read


def test_mindformers_packs(packing):
    rows, length, read = packing
    expected = read["mindformers_pack"]
    members = sequential([len(ids) for ids, _ in rows], length)
    assert members == expected["members"]
    for number, pack in enumerate(members):
        made = join([rows[i] for i in pack], length, closing=0, pad_segments=True)
        assert made.input_ids.tolist() == expected["input_ids"][number]
        assert made.labels.tolist() == expected["labels"][number]
        assert made.ends == expected["actual_seq_len"][number]
        assert made.position_ids.tolist() == expected["after_loader"][number]["position_ids"]


def test_mindformers_truncates(packing):
    rows, length, read = packing
    expected = read["mindformers_truncate"]
    for number, (ids, labels) in enumerate(truncated(rows, length)):
        assert ids.tolist() == expected["input_ids"][number]
        assert labels.tolist() == expected["labels"][number]


def test_llama_factory_packs(packing):
    rows, _, read = packing
    expected = read["llamafactory"]
    members = neat([len(ids) for ids, _ in rows], expected["cutoff_len"])
    assert members == expected["members"]
    for number, pack in enumerate(members):
        made = join([rows[i] for i in pack], expected["cutoff_len"] + 1)
        neatly = {name: array[number] for name, array in expected["neat_packing"].items()}
        assert made.input_ids.tolist() == neatly["input_ids"]
        assert made.labels.tolist() == neatly["labels"]
        assert made.segments.tolist() == neatly["attention_mask"]
        assert made.position_ids.tolist() == neatly["position_ids"]


@pytest.mark.parametrize("choose", [neat, sequential])
def test_every_row_that_fits_stands_in_one_pack(choose):
    lengths = np.random.default_rng(0).integers(1, 70, 500).tolist()
    packs = choose(lengths, 64)
    assert sorted(n for pack in packs for n in pack) == [n for n, size in enumerate(lengths) if size <= 64]
    assert all(sum(lengths[n] for n in pack) <= 64 for pack in packs)


def build(root, tmp_path, **changes):
    file = tmp_path / "rows.jsonl"
    lines = [{"content": f"类型#裙*颜色#{i}", "summary": "好看" * (i % 9 + 1)} for i in range(60)]
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    vocab = str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model")
    section = {
        "data_loader": {"type": "ADGenDataLoader", "dataset_dir": str(file), "origin_columns": ["content", "summary"]},
        "tokenizer": {"type": "ChatGLM2Tokenizer", "vocab_file": vocab},
        "max_source_length": 64,
        "max_target_length": 63,
        **changes,
    }
    return build_dataset(section, task={"type": "KeyWordGenDataset"}, seed=1, batch_size=2)


def test_packed_rows_hold_what_the_rows_hold(root, tmp_path):
    plain, packed = build(root, tmp_path), build(root, tmp_path, packing="neat")
    assert packed.num_rows < plain.num_rows / 2
    batch = next(packed.batches(0))
    assert batch.first_visible.shape == batch.input_ids.shape
    supervised = {"plain": 0, "packed": 0}
    for name, made in (("plain", plain), ("packed", packed)):
        for index in range(made.num_rows):
            supervised[name] += sum(label != -100 for label in made.example(index).labels)
    assert supervised["plain"] == supervised["packed"]
    example = packed.example(0)
    first = np.array(example.first_visible)
    members = packed.packs[0]
    for start, number in zip(np.unique(first)[: len(members)], members, strict=True):
        one = plain.example(number)
        assert example.input_ids[start : start + one.used] == one.input_ids[: one.used]
        assert example.labels[start : start + one.used] == one.labels[: one.used]
        assert (first[start : start + one.used] == start).all()


def test_a_misspelt_strategy_is_named(root, tmp_path):
    with pytest.raises(ConfigError, match="packing"):
        build(root, tmp_path, packing="neet")
