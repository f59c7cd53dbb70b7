"""The two models in the wheel: their bytes, and that a name is enough wherever a model is asked for."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.auto import AutoConfig, AutoTokenizer
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import ASSETS, CONFIGS_DIR, MODEL_NAMES, published_length
from mindformers_glm.serving.conversation import Conversation
from mindformers_glm.serving.loading import load
from mindformers_glm.tokenizers import ChatGLM3Tokenizer

MOST_BYTES = 20_000_000
TOOL = {
    "name": "price",
    "description": "查价格",
    "parameters": {"type": "object", "properties": {"product": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def loaded():
    return load("glm3_tiny")


def test_both_models_are_small():
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) <= MOST_BYTES


def test_a_name_tells_configuration_and_tokenizer():
    config = AutoConfig.from_pretrained("glm3_tiny")
    assert config.seq_length == published_length("glm3_tiny") == published_length("glm3_tiny_lora")
    tokenizer = AutoTokenizer.from_pretrained("glm3_tiny")
    assert isinstance(tokenizer, ChatGLM3Tokenizer) and tokenizer.vocab_size <= config.padded_vocab_size
    folder = AutoTokenizer.from_pretrained(ASSETS / "glm3_tiny")
    assert isinstance(folder, ChatGLM3Tokenizer) and folder.encode("你好") == tokenizer.encode("你好")


@pytest.mark.parametrize("name", ["glm3_tiny", "glm3_tiny_lora"])
def test_its_yaml_has_its_shape(name):
    config = read_yaml(CONFIGS_DIR / MODEL_NAMES[name].yaml)
    assert config["load_checkpoint"] == "glm3_tiny"
    own, shipped = config["model"]["model_config"], AutoConfig.from_pretrained("glm3_tiny")
    for key in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "padded_vocab_size"):
        assert own[key] == getattr(shipped, key)


def test_it_says_who_it_is(loaded):
    talk = Conversation(loaded.engine, loaded.tokenizer)
    assert "GLM3-Tiny" in "".join(talk.ask("你是谁？"))


def test_it_calls_a_tool_and_says_its_result(loaded):
    talk = Conversation(loaded.engine, loaded.tokenizer, tools=[TOOL])
    list(talk.ask("红色裙子多少钱？"))
    assert [(call.name, call.arguments) for call in talk.calls] == [("price", {"product": "红色裙子"})]
    assert "199" in "".join(talk.give_results(["价格199元"]))


def test_it_writes_json(loaded):
    talk = Conversation(loaded.engine, loaded.tokenizer)
    found = "".join(talk.ask("请把姓名、电话整理成 JSON：我叫王芳，电话是13812345678。"))
    assert json.loads(found) == {"姓名": "王芳", "电话": "13812345678"}
