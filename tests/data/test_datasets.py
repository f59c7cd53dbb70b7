"""What all datasets promise: positions that resume, ranks without overlap, sections of YAML, counts."""

import json

import numpy as np
import pytest

from mindformers_glm.data import Batch, KeyWordGenDataset, MultiTurnDataset, build_dataset
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.registry import DATASETS
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer


@pytest.fixture(scope="module")
def shipped(root):
    return str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model")


@pytest.fixture(scope="module")
def glm2(shipped):
    return ChatGLM2Tokenizer(shipped)


@pytest.fixture(scope="module")
def glm3(shipped):
    return ChatGLM3Tokenizer(shipped)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.json"
    rows = [{"content": f"类型#裙*{n}", "summary": f"好裙子{n}。" * (1 + n % 5)} for n in range(23)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return str(path)


def section(file, **more):
    loader = {"type": "ADGenDataLoader", "dataset_dir": file, "origin_columns": ["content", "summary"], "version": 2}
    given = {"data_loader": loader, "input_columns": ["input_ids", "labels"], "max_source_length": 32}
    given |= {"max_target_length": 16, "num_parallel_workers": 8, "python_multiprocessing": False, "batch_size": 4}
    given |= {"drop_remainder": True, "repeat": 1, "numa_enable": False, "prefetch_size": 1, "seed": 0}
    return {**given, **more}


def built(file, tokenizer, *, rank=0, rank_size=1, seed=5, batch_size=4, phase="train", **more):
    return build_dataset(
        section(file, **more),
        task={"type": "KeyWordGenDataset"},
        seed=seed,
        rank=rank,
        rank_size=rank_size,
        batch_size=batch_size,
        phase=phase,
        tokenizer=tokenizer,
    )


def rows_of(batches):
    return [batch.rows.tolist() for batch in batches]


def test_a_position_resumes_exactly(file, glm2):
    whole = list(built(file, glm2).batches(3))
    for start in range(len(whole) + 1):
        rest = list(built(file, glm2).batches(3, start))
        assert len(rest) == len(whole) - start
        for one, other in zip(whole[start:], rest, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert rows_of(built(file, glm2, seed=6).batches(3)) != rows_of(whole)


def test_ranks_split_an_epoch(file, glm2):
    parts = [built(file, glm2, rank=rank, rank_size=3, batch_size=2, drop_remainder=False) for rank in range(3)]
    lines = [line for part in parts for batch in part.batches(0) for line in batch.rows.tolist()]
    assert sorted(lines) == [0, *range(1, 24)]
    assert {len(part) for part in parts} == {4}
    last = list(parts[2].batches(0))[-1]
    assert last.rows[-1] == 0
    assert (last.labels[-1] == -100).all()
    shard = built(
        file, glm2, data_loader={**section(file)["data_loader"], "num_shards": 3, "shard_id": 1}, batch_size=2
    )
    assert rows_of(shard.batches(0)) == rows_of(built(file, glm2, rank=1, rank_size=3, batch_size=2).batches(0))


def test_batches_carry_lines_and_types(file, glm2):
    batch = next(built(file, glm2).batches(0))
    assert isinstance(batch, Batch)
    assert (batch.input_ids.shape, batch.labels.shape, batch.rows.shape) == ((4, 49), (4, 49), (4,))
    assert (batch.input_ids.dtype, batch.labels.dtype, batch.rows.dtype) == (np.int32, np.int32, np.int64)
    for ids, line in zip(batch.input_ids, batch.rows, strict=True):
        assert f"类型#裙*{line - 1}\n" in glm2.decode(ids)


def test_counts_are_reported(file, glm2):
    dataset = built(file, glm2)
    batches = list(dataset.batches(0))
    found = dataset.statistics
    assert found.samples == sum(len(batch.rows) for batch in batches)
    assert found.supervised == sum(int((batch.labels != -100).sum()) for batch in batches)
    assert found.tokens == sum(int((batch.input_ids != 0).sum()) for batch in batches)
    assert dataset.survey().samples == 23
    assert "supervised" in str(found)


def test_sections_are_not_changed_and_build_twice(file, shipped):
    given = section(file, tokenizer={"type": "ChatGLM2Tokenizer", "vocab_file": shipped})
    before = json.dumps(given)
    task = {"type": "KeyWordGenDataset", "dataset_config": given}
    train = build_dataset(given, task=task, seed=0)
    evaluation = build_dataset(given, task=task, seed=0, phase="eval")
    assert json.dumps(given) == before
    assert (train.phase, evaluation.phase) == ("train", "eval")
    assert next(train.batches(0)).labels.shape[1] == 49
    assert next(evaluation.batches(0)).labels.shape[1] == 16
    assert len(build_dataset({}, task=task, seed=0)) == len(train)


def test_both_forms_of_a_section_build(file, glm2, shipped):
    given = section(file, tokenizer={"type": "ChatGLM2Tokenizer", "vocab_file": shipped})
    direct = DATASETS.build({"type": "KeyWordGenDataset", **given}, "train_dataset", rank=1, rank_size=2)
    nested = DATASETS.build(
        {"type": "KeyWordGenDataset", "dataset_config": given}, "train_dataset", rank=1, rank_size=2
    )
    assert rows_of(direct.batches(0)) == rows_of(nested.batches(0))
    assert len(direct) == 2
    with pytest.raises(ConfigError, match="max_source_length"):
        KeyWordGenDataset(dataset_config={**given, "max_source_lenght": 3})
    assert DATASETS.check({"type": "KeyWordGenDataset", **given, "prefetch_sise": 1}, "train_dataset")
    assert not DATASETS.check({"type": "KeyWordGenDataset", **given, "label_convention": 0.8}, "train_dataset")


def test_faults_carry_the_key_from_the_root(file, glm2, glm3):
    for more, words in (
        ({"label_convention": "2.0"}, "train_dataset.label_convention"),
        ({"max_source_length": 2}, "train_dataset.max_source_length"),
        ({"max_source_length": "long"}, "train_dataset.max_source_length"),
        (
            {"data_loader": {"type": "ADGenDataLoder", "dataset_dir": file}},
            "train_dataset.data_loader.type.*ADGenDataLoader",
        ),
        ({"data_loader": {"type": "ADGenDataLoader"}}, "train_dataset.data_loader.dataset_dir"),
        (
            {"data_loader": {**section(file)["data_loader"], "version": 1}},
            "train_dataset.data_loader.version.*ChatGLM-1",
        ),
        ({"nothing": 1}, "train_dataset.nothing"),
    ):
        with pytest.raises(ConfigError, match=words):
            built(file, glm2, **more)
    with pytest.raises(ConfigError, match="version.*version: 3"):
        built(file, glm3)
    with pytest.raises(ConfigError, match="train_dataset.tokenizer"):
        built(file, None)
    with pytest.raises(ConfigError, match="train_dataset_task.type"):
        build_dataset(section(file), task={}, seed=0)
    with pytest.raises(ConfigError, match="eval_dataset"):
        build_dataset(None, task={"type": "KeyWordGenDataset"}, seed=0, phase="eval")
    with pytest.raises(DataError, match="23 rows over 1 ranks fill no batch of 24"):
        built(file, glm2, batch_size=24)


def test_a_long_prompt_can_keep_its_template(tmp_path, glm2):
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"content": "很长的描述" * 50, "summary": "好"}, ensure_ascii=False), encoding="utf-8")
    for phase in ("train", "eval"):
        cut = built(str(path), glm2, batch_size=1, phase=phase)
        kept = built(str(path), glm2, batch_size=1, phase=phase, keep_template=True)
        texts = [glm2.decode(dataset.example(0).input_ids) for dataset in (cut, kept)]
        assert "答：" not in texts[0]
        assert "答：" in texts[1]
        assert kept.example(0).cut
        assert kept.example(0).used <= 49


def test_a_cut_answer_is_closed_or_left_open(tmp_path, glm2):
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"content": "x", "summary": "很长的回答" * 50}, ensure_ascii=False), encoding="utf-8")
    closed, opened = (
        built(str(path), glm2, batch_size=1, eos_after_truncation=choice).example(0) for choice in (True, False)
    )
    assert 2 in closed.labels
    assert 2 not in opened.labels
    assert closed.used == opened.used + 1


def test_version_3_evaluates_without_a_template(file, glm3):
    loader = {**section(file)["data_loader"], "version": 3, "phase": "eval"}
    batch = next(built(file, glm3, data_loader=loader, phase="eval").batches(0))
    assert glm3.decode(batch.input_ids[0], skip_special_tokens=True) == "类型#裙*0"
    assert batch.labels.shape == (4, 16)


def test_unsupervised_samples_stop_or_are_counted(tmp_path, glm3):
    path = tmp_path / "chats.json"
    rows = [
        [{"role": "user", "content": "x" * 300 if n == 2 else "x"}, {"role": "assistant", "content": "y"}]
        for n in range(4)
    ]
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows), encoding="utf-8")
    loader = {"type": "ConversationDataLoader", "dataset_dir": str(path), "shuffle": False}
    with pytest.raises(DataError, match="chats.json:3: no token of this sample would be learned"):
        MultiTurnDataset(data_loader=loader, tokenizer=glm3, max_seq_length=16, batch_size=1)
    dataset = MultiTurnDataset(data_loader=loader, tokenizer=glm3, max_seq_length=16, batch_size=1, max_unsupervised=1)
    assert len(list(dataset.batches(0))) == 4
    assert dataset.statistics.unsupervised_samples == 1
