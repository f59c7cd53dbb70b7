"""GLM-4's tokenizers and chats against the official ones: every text, every reply's bytes, every conversation."""

import json
from functools import lru_cache
from pathlib import Path

import pytest

from mindformers_glm.tokenizers import ChatGLM4Tokenizer, Renderer, TextStream, byte_pairs, chatglm4

pytest.importorskip("tiktoken")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", autouse=True)
def _pieces_are_read_once():
    """The tokenizers below differ in their chat format: the 150,000 pieces of a file need not be read for each."""
    reading = {"read_json_vocabulary": lru_cache(byte_pairs.read_json_vocabulary)}
    reading["read_ranks"] = lru_cache(byte_pairs.read_ranks)

    def once(name):
        return lambda path, *rest, **settings: reading[name](path.resolve(), *rest, **settings)

    with pytest.MonkeyPatch.context() as patch:
        for name in reading:
            patch.setattr(chatglm4, name, once(name))
        yield


@pytest.fixture(scope="module")
def cases(golden):
    return json.loads((golden / "glm4/tokenizer/tokenizer_glm4.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["tokenizer.model", "tokenizer.json"])
def tokenizer(request, shared, golden):
    places = {
        "tokenizer.model": shared / "data/tokenizer/glm-4-9b/tokenizer.model",
        "tokenizer.json": golden / "glm4/tokenizer/tokenizer.json",
    }
    return ChatGLM4Tokenizer(str(places[request.param]))


def test_texts(tokenizer, cases):
    assert tokenizer.vocabulary.special_ids == cases["special_tokens"]
    told = ChatGLM4Tokenizer(tokenizer.vocab_file, encode_special_tokens=True)
    for case in cases["text"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"], case["text"]
        special = case.get("ids_special", case["ids"])
        assert told.encode(case["text"], add_special_tokens=False) == special, case["text"]
    assert tokenizer.encode("晚上睡不着应该怎么办") == [151331, 151333, 101160, 120410, 99379, 103298]


def test_bytes_and_streams(tokenizer, cases):
    for case in cases["decode"]:
        assert tokenizer.decode(case["ids"]) == case["text"], case
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case.get("text_skip_special", case["text"])
    for case in cases["stream"]:
        stream = TextStream(tokenizer)
        assert [stream.push(index) for index in case["ids"]] == case["pieces"]
        assert stream.flush() == bytes.fromhex(case["rest_hex"]).decode("utf-8", "replace")


def test_marks(tokenizer):
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (151343, 151329, 151329)
    assert tokenizer.stop_ids == (151329, 151336, 151338)
    assert tokenizer.padding_side == "left"
    assert tokenizer.decode([151337, 151342, 151343, 10**9, -1]) == "<|assistant|><|end_of_video|>"


@pytest.mark.parametrize("form", ["glm4_chat", "glm4_0414", "glm_z1"])
def test_chats(tokenizer, cases, form):
    """Ids are those of the model's own Python code; the later models have a template alone, whose text is tokenised at
    once: there a text that names a role, or begins with a newline, is written otherwise here, on purpose."""
    told = ChatGLM4Tokenizer(tokenizer.vocab_file, chat_format={"glm4_chat": "glm4"}.get(form, form))
    renderer, merged = Renderer(told), 0
    for case in cases["chat"]:
        ids = renderer.prompt(case["messages"], tools=case["tools"])
        if form == "glm4_chat":
            assert ids == case[form].get("ids_message_by_message", case[form]["ids"])
        else:
            assert renderer.text(ids) == case[form]["text"]
            merged += ids != case[form]["ids"]
        closed = case.get(f"{form}_no_generation_prompt")
        if closed:
            assert renderer.prompt(case["messages"], tools=case["tools"], open_reply=False) == closed["ids"]
    assert merged == {"glm4_chat": 0, "glm4_0414": 2, "glm_z1": 1}[form]


@pytest.mark.parametrize("form", ["glm4", "glm4_0414", "glm_z1", "glm_edge", "roles"])
def test_a_prompt_is_the_beginning_of_its_example_and_replies_are_learned(tokenizer, form):
    told = ChatGLM4Tokenizer(tokenizer.vocab_file, chat_format=form)
    renderer = Renderer(told)
    tools = None if form == "glm_edge" else [{"name": "get", "description": "查"}]
    past = [{"role": "system", "content": "S"}, {"role": "user", "content": "北京天气"}]
    if tools:
        past.append({"role": "tool", "name": "get", "parameters": {"city": "北京"}, "observation": "3"})
    past += [{"role": "assistant", "content": "三度"}, {"role": "user", "content": "<|assistant|> 谢谢"}]
    reply = {"role": "assistant", "content": "<think>\n想\n</think>\n\n不客气" if form == "glm_z1" else "不客气"}
    ids, labels = renderer.example([*past, reply], tools=tools)
    prompt = renderer.prompt(past, tools=tools)
    assert ids[: len(prompt)] == prompt
    assert len(ids) == len(labels)
    learned = [label for label in labels if label != -100]
    text = told.decode(learned)
    assert text.count("不客气") == text.count("三度") == 1
    assert "谢谢" not in text and "天气" not in text
    if tools:
        body = '{"city": "北京"}' if form != "roles" else "tool_call(city='北京')"
        assert f"get\n{body}" in text.replace("```python\n", "") and "<|observation|>" in text
    assert labels[len(prompt) - 1] == ids[len(prompt)]
    assert labels[-2] == ids[-1] == told.get_command("<|endoftext|>" if form == "roles" else "<|user|>")
    assert ("想" in text) == (form == "glm_z1")
    apart = {**reply, "content": "不客气", "reasoning_content": "想"}
    assert (renderer.example([*past, apart], tools=tools).ids == ids) == (form == "glm_z1" or "think" not in text)
    empty = renderer.example([("a", "b")]).ids
    assert empty[: len(renderer.prompt([], "a"))] == renderer.prompt([], "a")


def test_damaged_vocabularies_are_named(tokenizer, tmp_path):
    from mindformers_glm.errors import DataError, UserError

    whole = Path(tokenizer.vocab_file).read_bytes()
    path = tmp_path / "bad.model"
    for content in (whole[:100_000], b"{}", b"AA== 0\n", whole[:1000] + b"\xff" + whole[1000:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="bad.model") as caught:
            ChatGLM4Tokenizer(str(path))
        assert isinstance(caught.value, DataError) and "\n" not in str(caught.value)


def test_folders_tell_their_tokenizer_and_its_chat_format(tokenizer, tmp_path):
    from mindformers_glm.models.recognise import tokenizer_from

    (tmp_path / tokenizer.vocab_file.rsplit("/")[-1]).symlink_to(tokenizer.vocab_file)

    def told(config=None, settings=None, template=None):
        for name, value in (("config.json", config), ("tokenizer_config.json", settings)):
            (tmp_path / name).write_text(json.dumps(value or {}))
        (tmp_path / "chat_template.jinja").write_text(template or "")
        found = tokenizer_from(tmp_path)
        assert isinstance(found, ChatGLM4Tokenizer)
        return found.chat_format

    assert told() == told({"model_type": "chatglm"}) == told({"model_type": "glm", "vocab_size": 151552}) == "glm4"
    assert told({"model_type": "glm4"}) == told(settings={"name_or_path": "zai-org/GLM-4-9B-0414"}) == "glm4_0414"
    assert told({"model_type": "glm4", "_name_or_path": "zai-org/GLM-Z1-9B-0414"}) == "glm_z1"
    assert told({"model_type": "glm", "vocab_size": 59264}) == "glm_edge"
    assert told({"model_type": "glm4"}, template="[gMASK]<sop> ... <think>") == "glm_z1"
    assert told({"model_type": "glm4"}, template="[gMASK]<sop># 可用工具") == "glm4_0414"
    assert told(settings={"chat_template": "[gMASK]<sop>你是一个名为 ChatGLM # 可用工具"}) == "glm4"
    assert told(settings={"tokenizer_class": "PreTrainedTokenizerFast", "chat_format": "glm_z1"}) == "glm_z1"
    saved = tmp_path / "saved"
    tokenizer_from(tmp_path).save_pretrained(saved)
    again = tokenizer_from(saved)
    assert (again.chat_format, again.encode("你好")) == ("glm_z1", tokenizer_from(tmp_path).encode("你好"))
