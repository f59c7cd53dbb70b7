"""A model's own chat template beside our formats: templates of this project that write what the formats write."""

from __future__ import annotations

import json
import shutil

import pytest

from mindformers_glm.cli.chat_template import main
from mindformers_glm.errors import DataError, GenerationError
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM4Tokenizer
from mindformers_glm.tokenizers.template import TALKS, Talk, Template, compare, read_talks, read_template

pytest.importorskip("jinja2")

SYSTEMS_FIRST = """\
[gMASK]<sop>
{%- if tools %}<|system|>
# 可用工具
{% for tool in tools %}{% set f = tool.function %}
{{ '\\n' }}## {{ f.name }}

{{ f | tojson(indent=4) }}
在调用上述函数时，请使用 Json 格式表示调用的参数。
{%- endfor %}{% endif %}
{%- for m in messages if m.role == 'system' %}<|system|>
{{ m.content }}{% endfor %}
{%- for m in messages if m.role != 'system' %}
{%- if m.role == 'assistant' and m.metadata %}<|assistant|>{{ m.metadata }}
{{ m.content }}
{%- else %}<|{{ m.role }}|>
{{ m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
ROUNDS = """\
{% for m in messages %}{% if m.role == 'user' %}[Round {{ loop.index0 // 2 + 1 }}]\n\n问：{{ m.content }}\n\n答：\
{% elif m.role == 'assistant' %}{{ m.content }}\n\n{% else %}{{ raise_exception('no such role: ' ~ m.role) }}\
{% endif %}{% endfor %}"""


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Every byte is a token: no word of any vocabulary is needed."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = tokenizers.decoders.ByteLevel()
    names = ["endoftext", "MASK", "gMASK", "sMASK", "sop", "eop", "system", "user", "assistant", "observation"]
    marks = [
        f"[{name}]" if name.endswith("MASK") else f"<{name}>" if name.endswith("op") else f"<|{name}|>"
        for name in names
    ]
    bare.add_special_tokens(marks)
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    bare.save(str(path))
    return path


@pytest.fixture
def folder(tmp_path, vocabulary):
    shutil.copy(vocabulary, tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_format": "glm4_0414"}))
    (tmp_path / "chat_template.jinja").write_text(SYSTEMS_FIRST, encoding="utf-8")
    return tmp_path


def verdicts(tokenizer, template):
    return {one.talk.name: one.verdict for one in compare(tokenizer, Template(template))}


def test_a_template_that_writes_what_we_write(vocabulary):
    tokenizer = ChatGLM4Tokenizer(str(vocabulary), chat_format="glm4_0414")
    assert verdicts(tokenizer, SYSTEMS_FIRST) == {talk.name: "same" for talk in TALKS}


def test_differences_are_named_where_they_begin(vocabulary):
    tokenizer = ChatGLM4Tokenizer(str(vocabulary), chat_format="glm4_0414")
    wrong = SYSTEMS_FIRST.replace("<|assistant|>{% endif", "<|assistant|>\n{{ '' }}{% endif")
    found = {one.talk.name: one for one in compare(tokenizer, Template(wrong))}
    assert {one.verdict for one in found.values()} == {"different"}
    first = found["a question"]
    assert first.theirs == first.ours + "\n"
    assert first.why == 'at character 36: "|assistant|>" here, "|assistant|>\\n" in the template'


def test_chatglm2_knows_no_tools_and_templates_may_refuse(root):
    sentencepiece = root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"
    found = verdicts(ChatGLM2Tokenizer(str(sentencepiece)), ROUNDS)
    assert found["one tool"] == "unknown here"
    assert found["a system prompt"] == "refused there"
    assert found["a question"] == found["several rounds"] == "same"


def test_tools_stand_in_a_message_where_the_template_knows_no_variable():
    text = "{% for m in messages %}{{ m.role }}{% if m.tools %} {{ m.tools | tojson }}{% endif %}{% endfor %}"
    tool = {"type": "function", "function": {"name": "f", "description": "<&>'"}}
    assert Template(text).text(Talk("", [{"role": "user", "content": ""}], [tool])) == (
        "system " + json.dumps([tool], ensure_ascii=False) + "user"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{% set x = messages.append(1) %}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ messages | nothing }}", None),
        ("{% for x in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% for x in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "writes more than"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ raise_exception('not so') }}", "not so"),
    ],
)
def test_a_template_reaches_nothing(text, said):
    if said is None:
        with pytest.raises(DataError, match="no Jinja template"):
            Template(text)
        return
    with pytest.raises(GenerationError, match=said):
        Template(text).text(TALKS[0])


def test_where_a_template_stands(tmp_path):
    with pytest.raises(DataError, match="no chat template there"):
        read_template(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": "one"}))
    assert read_template(tmp_path) == read_template(settings) == "one"
    several = [{"name": "tool_use", "template": "with tools"}, {"name": "default", "template": "plain"}]
    settings.write_text(json.dumps({"chat_template": several}))
    assert read_template(tmp_path) == "plain"
    (tmp_path / "chat_template.jinja").write_text("two")
    assert read_template(tmp_path) == read_template(tmp_path / "chat_template.jinja") == "two"
    settings.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_template(settings)


def test_the_command(folder, capsys):
    assert main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "beside the chat format glm4_0414" in shown
    assert shown.endswith(f"{len(TALKS)} of {len(TALKS)} conversations that both know are the same text\n")
    assert main([str(folder), "--chat_format", "roles"]) == 1
    assert "  different     one tool: at character" in capsys.readouterr().out
    talks = folder / "talks.json"
    talks.write_text(json.dumps([{"messages": [{"role": "user", "content": "你好"}]}], ensure_ascii=False))
    assert main([str(folder), "--conversations", str(talks), "--show"]) == 0
    assert '    template: "[gMASK]<sop><|user|>\\n你好<|assistant|>"' in capsys.readouterr().out
    talks.write_text("[1]")
    with pytest.raises(DataError, match="expected a list of objects"):
        read_talks(talks)
