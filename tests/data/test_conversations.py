"""Conversations from every form of file, as rows whose labels the renderer decides."""

import json

import numpy as np
import pytest

from mindformers_glm.data import (
    AlpacaDataLoader,
    ConversationDataLoader,
    KeyWordGenDataset,
    MultiTurnDataset,
    ShareGPTDataLoader,
)
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.registry import DATA_LOADERS, DATASETS
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer


@pytest.fixture(scope="module")
def glm2(root):
    return ChatGLM2Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


@pytest.fixture(scope="module")
def glm3(root):
    return ChatGLM3Tokenizer(str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"))


@pytest.fixture(scope="module")
def real3(glm3_vocab):
    return ChatGLM3Tokenizer(glm3_vocab)


@pytest.fixture(scope="module")
def real2(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return str(path)


def told(loader, index=0):
    return [(message.role, message.metadata, message.content) for message in loader.rows[index].messages]


TOOLS = [{"name": "get", "description": "查天气", "parameters": {"type": "object"}}]


def test_glm3_openai_and_sharegpt_say_the_same(tmp_path):
    result = '{"t": 3}'
    forms = {
        ConversationDataLoader: {
            "tools": TOOLS,
            "conversations": [
                {"role": "user", "content": "天气"},
                {"role": "tool", "name": "get", "parameters": {"city": "北京"}, "observation": result},
                {"role": "assistant", "content": "三度"},
            ],
        },
        ShareGPTDataLoader: {
            "tools": json.dumps(TOOLS, ensure_ascii=False),
            "conversations": [
                {"from": "gpt", "value": "welcome"},
                {"from": "human", "value": "天气"},
                {"from": "function_call", "value": '{"name": "get", "arguments": {"city": "北京"}}'},
                {"from": "observation", "value": result},
                {"from": "gpt", "value": "三度"},
            ],
        },
    }
    openai = {
        "tools": [{"type": "function", "function": TOOLS[0]}],
        "messages": [
            {"role": "user", "content": "天气"},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "get", "arguments": '{"city": "北京"}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": result},
            {"role": "assistant", "content": "三度"},
        ],
    }
    stories = [told(kind(write(tmp_path, row))) for kind, row in [*forms.items(), (ConversationDataLoader, openai)]]
    assert stories[0] == stories[1] == stories[2]
    assert [role for role, _, _ in stories[0]] == ["system", "user", "assistant", "observation", "assistant"]
    assert stories[0][2][1:] == ("get", "```python\ntool_call(city='北京')\n```")


def test_alpaca_with_history_system_and_input(tmp_path):
    row = {
        "instruction": "翻译",
        "input": "hello",
        "output": "你好",
        "system": "你是翻译",
        "history": [["早", "早上好"]],
    }
    assert told(AlpacaDataLoader(write(tmp_path, row))) == [
        ("system", "", "你是翻译"),
        ("user", "", "早"),
        ("assistant", "", "早上好"),
        ("user", "", "翻译\nhello"),
        ("assistant", "", "你好"),
    ]


def test_faults_are_told_by_line(tmp_path):
    for kind, row, words in (
        (ConversationDataLoader, {"messages": []}, "line 1: no list"),
        (ConversationDataLoader, {"messages": [{"role": "user", "content": "x"}]}, "nothing to learn"),
        (ConversationDataLoader, {"messages": [{"role": "robot", "content": "x"}]}, "role: got 'robot'"),
        (ConversationDataLoader, [1], "not an object but int"),
        (ShareGPTDataLoader, {"conversations": [{"from": "cat", "value": "x"}]}, "unknown speaker 'cat'"),
        (ShareGPTDataLoader, {"conversations": [{"from": "gpt"}]}, "every turn needs"),
        (ShareGPTDataLoader, {"conversations": [{"from": "function_call", "value": "{"}]}, "line 1"),
        (ShareGPTDataLoader, {"conversations": [{"from": "human", "value": "x"}], "tools": "{"}, "line 1"),
        (AlpacaDataLoader, {"instruction": "x"}, "needs text under"),
        (AlpacaDataLoader, {"instruction": "x", "output": " "}, "blank"),
        (AlpacaDataLoader, {"instruction": "x", "output": "y", "history": ["z"]}, "history"),
    ):
        with pytest.raises(DataError, match=words):
            kind(write(tmp_path, row))


@pytest.mark.parametrize(
    ("kind", "file", "rows"),
    [
        ("ToolAlpacaDataLoader", "instruct/chatglm3/toolcall_zh_from_glaive.jsonl", 298),
        ("ConversationDataLoader", "advertisegen/chatglm3_conversations_dev.json", 1070),
        ("ShareGPTDataLoader", "instruct/llamafactory/glaive_toolcall_zh_demo.json", 300),
        ("ShareGPTDataLoader", "instruct/fastchat/dummy_conversation.json", 500),
        ("AlpacaDataLoader", "instruct/llamafactory/oaast_sft_zh.json", 689),
        ("AlpacaDataLoader", "instruct/belle/belle_dev1K.jsonl", 1000),
    ],
)
def test_real_files_become_rows(shared, real3, kind, file, rows):
    loader = {"type": kind, "dataset_dir": str(shared / "data" / file)}
    dataset = MultiTurnDataset(data_loader=loader, tokenizer=real3, max_seq_length=1024, batch_size=8)
    assert dataset.num_rows == rows
    batch = next(dataset.batches(0))
    assert batch.input_ids.shape == batch.labels.shape == (8, 1024)
    assert ((batch.labels != -100).sum(1) > 0).all()
    following = np.roll(batch.input_ids, -1, axis=1)[:, :-1]
    learned = batch.labels[:, :-1] != -100
    assert (batch.labels[:, :-1] == following)[learned].all()


def test_one_round_of_glm2_equals_the_advertisement_dataset(shared, real2):
    loader = {"type": "ADGenDataLoader", "dataset_dir": str(shared / "data/advertisegen/dev.json"), "shuffle": False}
    rounds = MultiTurnDataset(data_loader=loader, tokenizer=real2, max_seq_length=193, batch_size=8)
    pairs = KeyWordGenDataset(data_loader=loader, tokenizer=real2, max_source_length=192, max_target_length=192)
    same = 0
    for index in range(200):
        one, other = rounds.example(index), pairs.example(index)
        if not one.cut:
            same += 1
            assert one.input_ids[: one.used] == other.input_ids[: other.used]
            assert one.labels[: one.used] == other.labels[: other.used]
    assert same > 150


def test_conversations_that_do_not_fit(tmp_path, glm3):
    rows = [
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "你好" * 5 * n}]}
        for n in (1, 9)
    ]
    loader = {"type": "ConversationDataLoader", "dataset_dir": write(tmp_path, *rows), "shuffle": False}
    common = {"data_loader": loader, "tokenizer": glm3, "max_seq_length": 24, "batch_size": 1}
    cut = MultiTurnDataset(**common)
    assert [cut.example(n).cut for n in (0, 1)] == [False, True]
    assert 2 in cut.example(0).labels
    assert 2 not in cut.example(1).labels
    assert cut.example(1).labels[-1] != -100
    assert MultiTurnDataset(**common, overlong="drop").num_rows == 1
    with pytest.raises(DataError, match="rows.jsonl:2: .* more than max_seq_length"):
        MultiTurnDataset(**common, overlong="error")
    with pytest.raises(ConfigError, match="overlong"):
        MultiTurnDataset(**common, overlong="shrink")


def test_conversations_of_another_model_are_reported(tmp_path, glm2):
    tools = {"tools": TOOLS, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    plain = {"messages": tools["messages"]}
    path = write(tmp_path, plain, plain, tools)
    dataset = MultiTurnDataset(data_loader=ConversationDataLoader(path), tokenizer=glm2, batch_size=1)
    assert dataset.num_rows == 2
    with pytest.raises(DataError, match="ChatGLM2 knows no tools"):
        MultiTurnDataset(data_loader=ConversationDataLoader(write(tmp_path, tools)), tokenizer=glm2, batch_size=1)


def test_names_of_mindformers_are_registered():
    for name in ("ToolAlpacaDataLoader", "ADGenDataLoader", "MindDataset"):
        assert name in DATA_LOADERS
    for name in ("KeyWordGenDataset", "MultiTurnDataset", "CausalLanguageModelDataset"):
        assert name in DATASETS


@pytest.fixture
def faults(monkeypatch):
    from mindformers_glm.log import logger

    found = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: found.append(message % values))
    return found


GOOD_ALPACA = {"instruction": "问", "input": "", "output": "答"}
GOOD_SHAREGPT = {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}
GOOD_TURNS = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": float("nan")}, "'input' is not text but float"),
        ({"input": 5}, "'input' is not text but int"),
        ({"input": [1]}, "'input' is not text but list"),
        ({"input": {}}, "'input' is not text but dict"),
        ({"system": 5}, "'system' is not text but int"),
        ({"history": 5}, "'history' is not a list of rounds but int"),
        ({"history": [["a"]]}, "pairs"),
        ({"history": [["a", None]]}, "'history' is blank"),
        ({"history": [["a", " "]]}, "'history' is blank"),
        ({"history": [["a", 5]]}, "'history' is not text"),
        ({"output": None}, "`output` is blank"),
        ({"output": " "}, "`output` is blank"),
        ({"instruction": ""}, "`instruction` is blank"),
    ],
)
def test_a_strange_alpaca_row_is_skipped_and_told(tmp_path, faults, change, words):
    loader = AlpacaDataLoader(write(tmp_path, GOOD_ALPACA, {**GOOD_ALPACA, **change}, GOOD_ALPACA))
    assert [row.line for row in loader.rows] == [1, 3]
    assert "1 of 3 records cannot be used: line 2" in faults[0]
    assert words in faults[0]


@pytest.mark.parametrize(
    "turn", [{"from": ["human"], "value": "x"}, {"from": "gpt", "value": 5}, {"from": "gpt", "value": ""}, 5]
)
def test_a_strange_sharegpt_turn_is_skipped_and_told(tmp_path, faults, turn):
    strange = {"conversations": [{"from": "human", "value": "问"}, turn]}
    assert [row.line for row in ShareGPTDataLoader(write(tmp_path, GOOD_SHAREGPT, strange, GOOD_SHAREGPT)).rows] == [
        1,
        3,
    ]
    assert "line 2" in faults[0]


@pytest.mark.parametrize(
    "change",
    [
        {"tools": 5},
        {"system": 5},
        {"conversations": [*GOOD_TURNS[:1], {"role": "assistant", "content": ""}]},
        {"conversations": [*GOOD_TURNS[:1], {"role": "assistant", "content": None}]},
        {"conversations": [*GOOD_TURNS[:1], {"role": "assistant", "content": 5}]},
        {"conversations": [*GOOD_TURNS[:1], {"role": "assistant", "content": "x", "tool_calls": 5}]},
        {"conversations": [*GOOD_TURNS[:1], {"role": ["assistant"], "content": "x"}]},
        {"conversations": [*GOOD_TURNS, 5]},
        {"conversations": [*GOOD_TURNS[:1], {"role": "assistant", "content": "x", "loss": "false"}]},
    ],
)
def test_a_strange_conversation_is_skipped_and_told(tmp_path, faults, change):
    good = {"conversations": GOOD_TURNS}
    assert [row.line for row in ConversationDataLoader(write(tmp_path, good, {**good, **change}, good)).rows] == [1, 3]
    assert "1 of 3 records cannot be used: line 2" in faults[0]


def test_a_blank_reply_that_is_not_learned_may_stand(tmp_path):
    turns = [*GOOD_TURNS[:1], {"role": "assistant", "content": "", "loss": False}, *GOOD_TURNS]
    assert len(ConversationDataLoader(write(tmp_path, {"messages": turns})).rows) == 1


def test_keys_without_a_value_are_absent(tmp_path):
    keys = ("role", "content", "name", "parameters", "observation", "tool_calls", "tool_call_id", "loss", "weight")
    plain = [
        {"role": "user", "content": "天气"},
        {"role": "tool", "name": "get", "parameters": {"city": "北京"}, "observation": "晴"},
        {"role": "assistant", "content": "晴。", "weight": 0},
        {"role": "user", "content": "开灯"},
        {"role": "tool", "name": "light", "parameters": {"on": True}, "observation": "ok"},
        {"role": "assistant", "content": "好。"},
    ]
    filled = [{key: turn.get(key) for key in keys} for turn in plain]
    for turn in filled:
        if turn["parameters"]:
            turn["parameters"] = {name: turn["parameters"].get(name) for name in ("city", "on")}
    tools = [{"name": "get", "parameters": {"city": {"type": "string"}}}]
    filled_tools = [{"name": "get", "parameters": {"city": {"type": "string"}, "on": None}}]
    loader = ConversationDataLoader(
        write(tmp_path, {"tools": tools, "messages": plain}, {"tools": filled_tools, "messages": filled})
    )
    assert loader.rows[0].messages == loader.rows[1].messages
    assert "tool_call(city='北京')" in loader.rows[1].messages[2].content
    assert [m.loss for m in loader.rows[1].messages if m.role == "assistant"] == [None, False, None, None]


def test_a_null_that_somebody_wrote_stays(tmp_path):
    turns = [*GOOD_TURNS[:1], {"role": "tool", "name": "get", "parameters": {"city": None}, "observation": "x"}]
    (row,) = ConversationDataLoader(write(tmp_path, {"messages": [*turns, GOOD_TURNS[1]]})).rows
    assert "tool_call(city=None)" in row.messages[1].content


def test_tables_hold_conversations_as_json_in_a_cell(tmp_path):
    import csv

    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["messages", "system"])
        rows.writerow([json.dumps(GOOD_TURNS, ensure_ascii=False), "你是助手"])
    assert told(ConversationDataLoader(str(path))) == [
        ("system", "", "你是助手"),
        ("user", "", "问"),
        ("assistant", "", "答"),
    ]


def test_history_of_a_pair_is_learned_from_as_in_chat(tmp_path, real2, faults):
    rounds = [["q1", "a1"], ["q2", "a2"]]
    path = write(tmp_path, {"content": "q3", "summary": "a3", "history": rounds})
    loader = {"type": "ADGenDataLoader", "dataset_dir": path, "shuffle": False}

    def built(**more):
        return KeyWordGenDataset(data_loader={**loader, **more}, tokenizer=real2, max_source_length=64, batch_size=1)

    example = built().example(0)
    prompt = real2.encode(real2.build_prompt("q3", rounds))
    reply = [*real2.encode("a3", add_special_tokens=False), real2.eos_token_id]
    assert example.input_ids[: example.used] == prompt + reply
    assert [label for label in example.labels if label != -100] == reply
    evaluated = built(phase="eval").example(0)
    assert evaluated.input_ids[: evaluated.used] == prompt
    assert faults == []


def test_history_that_does_not_fit_loses_its_oldest_rounds(tmp_path, real2, faults):
    rounds = [["一" * 40, "二" * 40], ["q2", "a2"]]
    path = write(tmp_path, {"content": "q3", "summary": "a3", "history": rounds})
    loader = {"type": "ADGenDataLoader", "dataset_dir": path, "shuffle": False}
    sizes = {"max_source_length": 48, "max_target_length": 16, "batch_size": 1}
    example = KeyWordGenDataset(data_loader=loader, tokenizer=real2, **sizes).example(0)
    kept = real2.encode(real2.build_prompt("q3", rounds[1:]))
    assert example.input_ids[: len(kept)] == kept
    assert example.cut
    assert "loses its 1 oldest rounds" in faults[0]


def test_a_loader_of_other_rows_is_refused_with_the_dataset_that_takes_them(tmp_path, glm2):
    path = write(tmp_path, {**GOOD_ALPACA, "system": "Be brief."})
    with pytest.raises(ConfigError, match="MultiTurnDataset"):
        KeyWordGenDataset(data_loader={"type": "AlpacaDataLoader", "dataset_dir": path}, tokenizer=glm2)


def test_questions_and_answers_are_pairs_with_their_history(tmp_path, glm2):
    row = {"instruction": "再见", "output": "保重", "history": [["你好", "您好"]]}
    loader = {"type": "AlpacaDataLoader", "dataset_dir": write(tmp_path, row)}
    dataset = KeyWordGenDataset(data_loader=loader, tokenizer=glm2, batch_size=1)
    assert dataset.rows == [(1, "再见", "保重", (("你好", "您好"),))]
