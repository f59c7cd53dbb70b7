"""Own data at first try: files of every form, told by their columns, folders, mixtures, validation parts."""

import csv
import gzip
import json

import pytest

from mindformers_glm.data import AutoDataLoader
from mindformers_glm.data.build import build_dataset
from mindformers_glm.data.forms import form_of
from mindformers_glm.data.preview import first_sample
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.log import logger
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer

ADGEN = {"content": "问", "summary": "答"}
ALPACA = {"instruction": "问", "input": "", "output": "答", "system": "你好", "history": [["一", "二"]]}
SHAREGPT = {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}
TURNS = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
TOOLS = {
    "tools": [{"name": "f", "parameters": {}}],
    "conversations": [TURNS[0], {"role": "tool", "name": "f", "parameters": {"a": 1}, "observation": "1"}, TURNS[1]],
}


@pytest.fixture(scope="module")
def glm3(root):
    return ChatGLM3Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


@pytest.fixture(scope="module")
def glm2(root):
    return ChatGLM2Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


def write(folder, name, *rows):
    path = folder / name
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def built(path, tokenizer, *, phase="train", labels=None, loader=None, **more):
    """As a shipped ADGEN configuration reads a file."""
    spec = {"type": "ADGenDataLoader", "dataset_dir": str(path), "origin_columns": ["content", "summary"]}
    section = {"data_loader": {**spec, **(loader or {})}, "max_source_length": 128, "max_target_length": 127, **more}
    settings = {"task": {"type": "KeyWordGenDataset"}, "seed": 0, "batch_size": 1, "phase": phase, "labels": labels}
    return build_dataset(section, tokenizer=tokenizer, **settings)


@pytest.mark.parametrize(
    ("row", "name", "dataset"),
    [
        (ADGEN, "ADGEN", "KeyWordGenDataset"),
        (ALPACA, "alpaca", "MultiTurnDataset"),
        (SHAREGPT, "ShareGPT", "MultiTurnDataset"),
        ({"messages": TURNS}, "messages", "MultiTurnDataset"),
        ({"conversations": TURNS}, "messages", "MultiTurnDataset"),
        (TOOLS, "messages", "MultiTurnDataset"),
        ({"conversation": [{"human": "问", "assistant": "答"}]}, "messages", "MultiTurnDataset"),
        ({"prompt": "问", "response": "答", "history": [["一", "二"]]}, "prompt/response", "MultiTurnDataset"),
        ({"query": "问", "response": "答"}, "query/response", "MultiTurnDataset"),
        ({"question": "问", "answer": "答"}, "question/answer", "MultiTurnDataset"),
        ({"text": "一段文字" * 40}, "text", "CausalLanguageModelDataset"),
    ],
)
def test_columns_choose_loader_and_dataset(tmp_path, glm3, glm2, row, name, dataset):
    assert form_of(row).name == name
    pairs = dataset == "KeyWordGenDataset"
    made = built(write(tmp_path, "a.jsonl.gz", row, row), glm2 if pairs else glm3)
    assert type(made).__name__ == dataset
    example = made.example(0)
    assert len(example.input_ids) == 256
    text = glm3.decode([token for token in example.labels if token != -100])
    assert ("文字" if name == "text" else "答") in text
    shown = first_sample(made)
    assert "of" in shown[0]
    assert "⟦" in shown[1]


def test_history_and_system_of_other_forms_are_read(tmp_path, glm3):
    path = write(tmp_path, "a.json", {"prompt": "问", "response": "答", "history": [["一", "二"]], "system": "你好"})
    (row,) = AutoDataLoader(str(path)).rows
    assert [message.content for message in row.messages] == ["你好", "一", "二", "问", "答"]


def test_tables_and_folders_and_patterns(tmp_path):
    with (tmp_path / "b.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], ["一", "二"]])
    write(tmp_path, "a.jsonl", ALPACA)
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / ".hidden.json").write_text("{")
    assert [row.messages[-1].content for row in AutoDataLoader(str(tmp_path)).rows] == ["答", "二"]
    assert len(AutoDataLoader(str(tmp_path / "*.csv")).rows) == 1
    with pytest.raises(DataError, match="no file matches"):
        AutoDataLoader(str(tmp_path / "*.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data file"):
        AutoDataLoader(str(tmp_path / "empty"))


def test_what_is_no_form_or_not_learned_from_is_told(tmp_path):
    with pytest.raises(DataError, match="columns that no form has: a, b.*instruction/input/output"):
        AutoDataLoader(str(write(tmp_path, "a.json", {"a": 1, "b": 2})))
    with pytest.raises(DataError, match="preferences.*DPO"):
        AutoDataLoader(str(write(tmp_path, "a.json", {"prompt": "x", "chosen": "a", "rejected": "b"})))
    path = write(tmp_path, "a.json", {"q": "问", "a": "答"})
    (row,) = AutoDataLoader(str(path), columns={"prompt": "q", "response": "a"}).rows
    assert row.messages[1].content == "答"


def test_a_mixture_by_weight(tmp_path):
    one = write(tmp_path, "one.json", *[{**ALPACA, "output": f"a{n}"} for n in range(8)])
    two = write(tmp_path, "two.json", *[{"messages": [TURNS[0], {**TURNS[1], "content": f"b{n}"}]} for n in range(8)])
    mixed = [{"path": str(one), "weight": 2}, {"path": str(two), "weight": 0.25}]
    found = [row.messages[-1].content for row in AutoDataLoader(datasets=mixed).rows]
    assert sorted(found[:16]) == sorted(2 * [f"a{n}" for n in range(8)])
    assert len(found) == 18
    assert found == [row.messages[-1].content for row in AutoDataLoader(datasets=mixed).rows]
    for wrong in ([{"weight": 1}], [{"path": str(one), "weight": 0}], [{"path": str(one), "weight": True}]):
        with pytest.raises(ConfigError, match="datasets.0"):
            AutoDataLoader(datasets=wrong)
    text = write(tmp_path, "text.json", {"text": "文"})
    with pytest.raises(ConfigError, match="two runs"):
        AutoDataLoader(datasets=[{"path": str(one)}, {"path": str(text)}])


def test_parts_are_apart_and_the_same_every_time(tmp_path):
    path = str(write(tmp_path, "a.json", *[{**ADGEN, "content": str(n)} for n in range(20)]))

    def part(name, **more):
        return {row.prompt for row in AutoDataLoader(path, part=name, **{"validation_share": 0.2, **more}).rows}

    assert len(part("validation")) == 4
    assert part("train") | part("validation") == {str(n) for n in range(20)}
    assert not part("train") & part("validation")
    assert part("validation", split_seed=1) != part("validation") == part("validation")
    assert len(part("validation", validation_share=7)) == 7
    with pytest.raises(ConfigError, match="validation_share"):
        AutoDataLoader(path, part="validation")


def test_dataset_info_of_llama_factory(tmp_path):
    write(tmp_path, "a.json", {"q": "问", "extra": "x", "a": "答"})
    turn = [{"who": "u", "said": "问"}, {"who": "m", "said": "答"}]
    write(tmp_path, "b.json", {"chat": turn, "sys": "你好"})
    info = {
        "one": {"file_name": "a.json", "columns": {"prompt": "q", "response": "a"}},
        "two": {
            "file_name": "b.json",
            "formatting": "sharegpt",
            "columns": {"messages": "chat", "system": "sys"},
            "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "u", "assistant_tag": "m"},
        },
        "far": {"hf_hub_url": "x/y"},
        "out": {"file_name": "../a.json"},
        "preferences": {"file_name": "a.json", "ranking": True},
    }
    write(tmp_path, "dataset_info.json", info)
    one = AutoDataLoader(str(tmp_path / "a.json")).rows
    named = AutoDataLoader(str(tmp_path), dataset="one, two").rows
    assert one == named[:1]
    assert [message.content for message in named[1].messages] == ["你好", "问", "答"]
    for name, words in {
        "far": "no local file",
        "out": "outside",
        "preferences": "DPO",
        "none": "no such entry",
    }.items():
        with pytest.raises(DataError, match=words):
            AutoDataLoader(str(tmp_path), dataset=name)


def test_the_evaluation_of_conversations_asks_for_the_last_reply(tmp_path, glm3):
    path = write(tmp_path, "a.json", ALPACA, {**ALPACA, "instruction": "长" * 400})
    dataset = built(path, glm3, phase="eval", labels=False)
    assert (type(dataset).__name__, dataset.counts_labels, dataset.num_rows) == ("MultiTurnDataset", False, 1)
    example = dataset.example(0)
    prompt = glm3.decode(example.input_ids[: example.used])
    assert prompt.endswith("<|assistant|>")
    assert "答" not in prompt
    assert "答" in glm3.decode(example.labels)


def test_rows_of_which_nothing_would_be_learned_are_left_out(tmp_path, glm3, monkeypatch):
    found = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: found.append(message % values))
    path = write(tmp_path, "a.json", ALPACA, {**ALPACA, "history": [], "instruction": "长" * 400})
    assert built(path, glm3).num_rows == 1
    assert "line 2: nothing to learn in its first 256 tokens" in found[0]


def test_the_configured_loader_stays_where_it_reads_the_file(tmp_path, glm2):
    path = write(tmp_path, "a.json", {"instruction": "问", "output": "答"})
    dataset = built(path, glm2, loader={"origin_columns": ["instruction", "output"]})
    assert type(dataset).__name__ == "KeyWordGenDataset"
    with pytest.raises(DataError, match="there is no such data file"):
        built(tmp_path / "none.json", glm2)
