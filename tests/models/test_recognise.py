"""Which model a path names, and which tokenizer a folder holds: never by a word somewhere in the path."""

import json
import logging

import pytest

from mindformers_glm import log
from mindformers_glm.models.recognise import family_named, tokenizer_class, tokenizer_from


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("THUDM/chatglm2-6b-32k", "chatglm2"),
        ("/data/ChatGLM3/models/chatglm2-6b-32k", "chatglm2"),
        ("/data/ChatGLM2-6B/ptuning/chatglm3-6b-32k/", "chatglm3"),
        ("D:\\models\\chatglm3-6b\\checkpoint-500", "chatglm3"),
        ("models--THUDM--chatglm2-6b-32k/snapshots/0123456789abcdef0123456789abcdef01234567", "chatglm2"),
        ("zai-org/glm-4-9b-chat", "glm4"),
        ("glm3_6b", "chatglm3"),
        ("codegeex2-6b", "codegeex2"),
        ("/data/ChatGLM3/output/my-sft", None),
        ("chatglm-6b", None),
        ("chatglm2-to-chatglm3", None),
        ("glm-40b", None),
        ("glm32k", "chatglm3"),
        ("GLM-4-9B-0414", "glm4_0414"),
        ("THUDM/GLM-Z1-9B-0414", "glm_z1"),
        ("glm-edge-4b-chat", "glm_edge"),
        ("chatglm3-6b-knowledge-0414", "chatglm3"),
        ("", None),
        (None, None),
    ],
)
def test_the_last_part_of_a_path_names_the_family(path, name):
    family = family_named(path)
    assert (family and family.name) == name


FIRST_RELEASE = {"tokenizer_class": "ChatGLMTokenizer", "name_or_path": "/data/output/my-sft"}


def folder_with(place, settings=None, config=None, **files):
    place.mkdir(parents=True, exist_ok=True)
    for name, value in (("tokenizer_config.json", settings), ("config.json", config)):
        if value is not None:
            (place / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8-sig")
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text)
    return place


@pytest.mark.parametrize("name", ["chatglm2-6b", "chatglm2-6b-32k", "chatglm3-6b", "chatglm3-6b-32k"])
@pytest.mark.parametrize("below", ["ChatGLM3", "chatglm2"])
def test_official_files_under_any_folder(shared, tmp_path, name, below):
    """As published; and trained from a local path, which the files then name. The first release has no template."""
    config = json.loads((shared / f"data/configs/{name}/config.json").read_text())
    expected = f"ChatGLM{name[7]}Tokenizer"
    assert (
        tokenizer_class(folder_with(tmp_path / below / "a", {"tokenizer_class": "ChatGLMTokenizer"}, config))
        == expected
    )
    local = {**config, "_name_or_path": f"/data/{below}/output/my-sft"}
    assert tokenizer_class(folder_with(tmp_path / below / "b", FIRST_RELEASE, local)) == expected
    assert tokenizer_class(folder_with(tmp_path / below / name, FIRST_RELEASE, {"_name_or_path": "x"})) == expected


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({"settings": {"chat_template": "<|{{ m.role }}|>", "name_or_path": "chatglm2-6b"}}, 3),
        ({"settings": FIRST_RELEASE, "chat_template__jinja": "<|user|>"}, 3),
        ({"settings": FIRST_RELEASE, "tokenization_chatglm__py": 'roles = ["<|user|>"]'}, 3),
        ({"settings": FIRST_RELEASE, "tokenization_chatglm__py": 'prompt = "[Round {}]"'}, 2),
        ({"settings": {"tokenizer_class": "ChatGLM2Tokenizer", "chat_template": "<|user|>"}}, 2),
        ({"config__yaml": "processor:\n  tokenizer:\n    type: ChatGLM3Tokenizer\n"}, 3),
    ],
)
def test_files_tell_before_names(tmp_path, files, number):
    assert tokenizer_class(folder_with(tmp_path / "chatglm2-6b", **files)) == f"ChatGLM{number}Tokenizer"


def test_what_nothing_tells_is_said(tmp_path, caplog, root):
    log.forget_told()
    log.logger.propagate = True
    caplog.set_level(logging.INFO, "mindformers_glm")
    place = folder_with(tmp_path / "my-sft", FIRST_RELEASE, {"_name_or_path": "my", "seq_length": 32768})
    (place / "tokenizer.model").symlink_to(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model")
    assert type(tokenizer_from(place)).__name__ == "ChatGLM2Tokenizer"
    assert "nothing here says" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_both_roads_to_a_tokenizer_agree(tmp_path, root, shared):
    from mindformers_glm import AutoTokenizer

    config = json.loads((shared / "data/configs/chatglm3-6b/config.json").read_text())
    place = folder_with(tmp_path / "sft", FIRST_RELEASE, {**config, "_name_or_path": "/data/output/my-sft"})
    (place / "tokenizer.model").symlink_to(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model")
    assert type(tokenizer_from(place)) is type(AutoTokenizer.from_pretrained(place))
    assert type(tokenizer_from(place)).__name__ == "ChatGLM3Tokenizer"
