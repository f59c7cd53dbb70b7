"""The text of the small models: replies are what their judge wants, what is held back is in no corpus."""

from __future__ import annotations

import json
import random
import re

import pytest

from mindformers_glm.config.names import ASSETS
from mindformers_glm.tokenizers import ChatGLM3Tokenizer, Renderer
from mindformers_glm.tokenizers.messages import call_text
from mindformers_glm.tokenizers.reply import Reply, ToolCall, parse_reply
from tools.tiny import corpus, measure, numbers, vocabulary, writing
from tools.tiny.corpus import MEASURED, SKILLS, held_back, skills_of
from tools.tiny.families import FAMILIES
from tools.tiny.measure import judged, measured
from tools.tiny.sample import said


@pytest.fixture(scope="module")
def tokenizer():
    return ChatGLM3Tokenizer(str(ASSETS / "glm2_tiny/tokenizer.model"))


def answered(sample):
    """The reply that the sample itself has."""
    last = sample.messages[-1]
    calls = [ToolCall(call["function"]["name"], call["function"]["arguments"]) for call in last.get("tool_calls", [])]
    return Reply(content=last["content"], tool_calls=calls)


@pytest.mark.parametrize("skill", MEASURED)
def test_the_reply_of_the_corpus_is_right(skill):
    rng = random.Random(4)
    for _ in range(150):
        sample = MEASURED[skill](rng)
        found = judged(sample, answered(sample))
        assert found["right"] == 1.0 and found.get("coverage", 1.0) == 1.0, (sample, found)


@pytest.mark.parametrize("maker", [writing.advert, writing.request])
def test_clauses_follow_the_order_of_the_request(maker):
    """Values that stand once in the request and once after the opening of the text, which may take any of them."""
    rng, compared = random.Random(8), 0
    for _ in range(200):
        sample = maker(rng)
        asked, text = (message["content"] for message in sample.messages)
        assert judged(sample, answered(sample))["coverage"] == 1.0
        clauses = text.partition("，")[2]
        values = [value for _, value in sample.wanted["pairs"] if asked.count(value) == text.count(value) == 1]
        found = sorted((value for value in values if value in clauses), key=clauses.find)
        assert found == sorted(found, key=asked.find), (asked, text)
        compared += len(found) > 1
    assert compared > 50


def test_each_family_has_a_mixture_of_its_own():
    assert skills_of(FAMILIES["glm3"]) == SKILLS
    made = skills_of(FAMILIES["glm2"])
    assert set(SKILLS) - set(made) == set(FAMILIES["glm2"].without)
    assert made["advert"] == (26, writing.advert) and made["talk"] == SKILLS["talk"]
    kinds = {row["kind"] for row in corpus.corpus(1500, 3, "glm2")}
    assert kinds == {*made, "dialogue", "plain"}


@pytest.mark.parametrize("skill", MEASURED)
def test_no_slot_stays_open(skill):
    rng = random.Random(5)
    for _ in range(100):
        sample = MEASURED[skill](rng)
        text = json.dumps([sample.messages, sample.tools], ensure_ascii=False)
        assert not re.search(r"<\w{1,4}>|，，|。。", text), text


def test_wrong_replies_are_told():
    sample = said("1+1=", "1+1=2。", number="2")
    assert judged(sample, Reply(content="1+1=3。"))["right"] == 0.0
    sample = said("?", "{}", json={"a": 1})
    assert judged(sample, Reply(content='{"a": 2}'))["right"] == judged(sample, Reply(content="a"))["right"] == 0.0
    sample = said("类型#裙*颜色#红色", "", pairs=[["类型", "裙"], ["颜色", "红色"]])
    assert judged(sample, Reply(content="这条裙子很好看。"))["coverage"] == 0.5
    repeated = judged(sample, Reply(content="红色裙子，显得优雅，显得优雅。"))
    assert repeated == {"coverage": 1.0, "right": 1.0, "repeated": 1.0}


def test_a_text_that_was_said_is_scored_in_place_of_the_corpus_reply():
    """Its perplexity is that of the larger model where `--judge` names one: a reply beside the point is less likely."""
    judge, sample = measure.Asked("glm3_tiny"), held_back("arithmetic", 1)[0]
    own = judge.log_probability(sample)
    assert judge.log_probability(sample, sample.messages[-1]["content"]) == own
    total, count = judge.log_probability(sample, "我们去公园吧。")
    assert total / count < own[0] / own[1] < 0


@pytest.mark.slow
def test_a_model_is_measured(monkeypatch):
    monkeypatch.setattr(measure, "MOST_NEW", 6)
    skills = ["talk", "arithmetic", "tool_call"]
    found = measured("glm2_tiny", 3, skills, judge="glm3_tiny")
    assert set(found) == {"talk", "arithmetic"}  # ChatGLM2 knows no tools
    for row in found.values():
        assert row["prompts"] == 3 and 0 <= row["right"] <= 100 and row["perplexity"] > 1 and row["fluency"] > 1


def test_held_back_prompts_are_in_no_corpus():
    learned = {
        json.dumps(row["messages"][0]["content"], ensure_ascii=False)
        for row in corpus.corpus(3000, 0)
        if "messages" in row
    }
    for skill in ("talk", "definition", "arithmetic", "refusal", "units"):
        held = held_back(skill, 30)
        assert len(held) == len({one.prompt for one in held}) == 30
        assert not learned & {json.dumps(one.messages[0]["content"], ensure_ascii=False) for one in held}


def test_the_seed_decides_every_line():
    first, again, other = (list(corpus.corpus(200, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert {row["kind"] for row in corpus.corpus(1500, 3)} == {*SKILLS, "dialogue", "plain"}


def test_sums_are_right_and_stay_below_twenty():
    rng = random.Random(6)
    for _ in range(400):
        a, sign, b, result = numbers.terms(rng)
        assert result == {"+": a + b, "-": a - b, "×": a * b, "÷": a // b if b else None}[sign]
        assert 0 <= result <= numbers.MOST and max(a, b) <= numbers.MOST and (sign != "÷" or a % b == 0)


def test_calls_are_read_as_they_were_meant(tokenizer):
    """What training learns is what the parser of replies gives back."""
    renderer, rng = Renderer(tokenizer), random.Random(7)
    for _ in range(40):
        sample = MEASURED["tool_call"](rng)
        learned = [label for label in renderer.example(sample.messages, tools=sample.tools).labels if label >= 0]
        names = [tool["name"] for tool in sample.tools]
        (call,) = parse_reply(tokenizer, learned, tools=names).tool_calls
        assert {"name": call.name, "arguments": call.arguments} == sample.wanted["call"]
        assert call.text.strip() == call_text(call.arguments)


def test_the_vocabulary_knows_its_characters(tmp_path):
    path = tmp_path / "corpus.jsonl"
    corpus.write(path, 300)
    (tmp_path / "tokenizer.model").write_bytes(vocabulary.train(path, size=3300))
    tokenizer = ChatGLM3Tokenizer(str(tmp_path / "tokenizer.model"))
    marks = vocabulary.required_characters()
    assert tokenizer.decode(tokenizer.vocabulary.encode(marks)).strip() == marks
    assert len(tokenizer.vocabulary.encode(marks)) <= len(marks) + 1  # none falls apart into bytes
    assert len(tokenizer.encode("    " * 4 + '"type": "object"')) < 16  # descriptions of tools are indented
