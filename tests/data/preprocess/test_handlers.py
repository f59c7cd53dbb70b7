"""ModelLink's handlers: the words of each, and what of them is learned. Its goldens stand in test_preprocess.py."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.data.indexed.pair import IndexedPair
from mindformers_glm.data.preprocess.handlers import HANDLERS
from mindformers_glm.data.preprocess.run import preprocess
from mindformers_glm.errors import DataError
from mindformers_glm.models.recognise import tokenizer_from

SYSTEM = (
    "\nBelow is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request. Please note that you need to think through your response "
    "logically and step by step.\n"
)


@pytest.fixture(scope="module")
def tokenizer(root):
    return tokenizer_from(root / "mindformers_glm/assets/glm2_tiny")


def written(tokenizer, folder, name, *rows, output="packed_input_ids", **settings):
    source = folder / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    preprocess(source, folder / "out", HANDLERS.get(name)(tokenizer, **settings), overwrite=True)
    return IndexedPair(folder / f"out_{output}_document")


def expected(tokenizer, text, end=()):
    return [*tokenizer.get_prefix_tokens(), *tokenizer.vocabulary.encode(text), *end]


def test_rounds_of_belle(tokenizer, tmp_path):
    row = {"instruction": "Human: 你好 \nAssistant: 您好\nHuman: 几点了？\nAssistant:", "input": "", "output": " 三点 "}
    pair = written(tokenizer, tmp_path, "BelleMultiTurnInstructionHandler", row, append_eod=True)
    asked = "### Instruction:\n你好\n### Response:\n您好\n### Instruction:\n几点了？\n### Response:\n"
    assert pair[0].tolist() == expected(tokenizer, f"{SYSTEM}{asked}三点\n", [tokenizer.eos_token_id])
    labels = IndexedPair(tmp_path / "out_packed_labels_document")[0].tolist()
    masked = len(expected(tokenizer, SYSTEM + asked))
    assert labels == [-100] * masked + pair[0].tolist()[masked:]


def test_turns_of_moss_are_sequences_of_one_document(tokenizer, tmp_path):
    turns = {
        "turn_1": {"Human": "<|Human|>: 一<eoh>\n", "MOSS": "<|MOSS|>: 二<eom>\n"},
        "turn_2": {"Human": "<|Human|>: 三<eoh>\n", "MOSS": "<|MOSS|>: 四<eom>\n"},
    }
    pair = written(tokenizer, tmp_path, "MOSSInstructionHandler", {"chat": turns}, {"chat": {}}, append_eod=True)
    first = f"{SYSTEM}### Instruction:\n一\n### Response:\n二\n"
    texts = [first, f"{first}### Instruction:\n三\n### Response:\n四\n"]
    assert [pair[i].tolist() for i in range(2)] == [expected(tokenizer, text) for text in texts]
    assert pair.documents.tolist() == [0, 2]


def test_problems_of_leetcode(tokenizer, tmp_path):
    row = {"code_with_problem": "加法 ```python```", "code_only": "a + b", "explanation_only": "相加"}
    pair = written(tokenizer, tmp_path, "LeetcodePythonInstructionHandler", row)
    assert pair[0].tolist() == expected(tokenizer, f"{SYSTEM}### Instruction:\n加法\n### Response:\na + b\n相加\n")


@pytest.mark.parametrize(("more", "said"), [("", "###None"), ("快", "### Input:\n快")])
def test_alpaca_rows_as_running_text(tokenizer, tmp_path, more, said):
    row = {"instruction": "说", "input": more, "output": "好"}
    pair = written(tokenizer, tmp_path, "AlpacaPretrainHandler", row, output="text", json_keys=("title",))
    text = tokenizer.decode(pair[0].tolist())
    assert text.endswith(f"### Instruction:\n说\n\n{said}\n\n### Response: ASSISTANT: 好")


def test_texts_as_long_as_seq_length_are_left_out_and_keep_their_border(tokenizer, tmp_path):
    rows = [{"text": "好" * count} for count in (3, 50, 0, 4)]
    pair = written(tokenizer, tmp_path, "GeneralPretrainHandler", *rows, output="text", seq_length=20)
    assert pair.documents.tolist() == [0, 1, 1, 2]
    assert [len(pair[i]) for i in range(len(pair))] == [len(expected(tokenizer, "好" * count)) for count in (3, 4)]


def test_an_answer_that_holds_the_mark_is_cut_where_modellink_cuts_it(tokenizer, tmp_path):
    row = {"instruction": "说", "input": "", "output": "a ### Response: b"}
    written(tokenizer, tmp_path, "GeneralInstructionHandler", row)
    labels = IndexedPair(tmp_path / "out_packed_labels_document")[0].tolist()
    prompt = f"{SYSTEM}### Instruction:\n说\n\n### Response:\na ### Response:\n"
    assert labels.count(-100) == len(expected(tokenizer, prompt))


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("BelleMultiTurnInstructionHandler", {"instruction": "", "output": "x"}, "no round"),
        ("MOSSInstructionHandler", {"instruction": "x"}, "no turns under 'chat'"),
        ("GeneralInstructionHandler", {"instruction": "x"}, "no text under 'output'"),
        ("AlpacaPretrainHandler", {"text": "x"}, "no text under 'instruction'"),
    ],
)
def test_rows_of_another_kind_are_named(tokenizer, tmp_path, name, row, said):
    with pytest.raises(DataError, match=f"line 1 has {said}"):
        written(tokenizer, tmp_path, name, row)
