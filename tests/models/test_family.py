"""Families: told by their config.json, known without MindSpore, their parts where they say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.models.family import FAMILIES, imported
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers.formats import FORMATS

PUBLISHED = {
    "data/configs/chatglm2-6b": "chatglm2",
    "data/configs/chatglm3-6b": "chatglm3",
    "data/configs/codegeex2-6b": "codegeex2",
    "data/configs/glm-4-9b-chat": "glm4",
    "golden/glm4/configs/glm-4-9b-chat-1m": "glm4",
    "golden/glm4/configs/glm-4-9b-chat-hf": "glm4_hf",
    "golden/glm4/configs/glm-edge-1.5b-chat": "glm_edge",
    "golden/glm4/configs/finetune-of-GLM-4-9B-0414": "glm4_0414",
    "golden/glm4/configs/chatglm3-6b-128k": "chatglm3",
}


@pytest.mark.parametrize(("place", "family"), PUBLISHED.items())
def test_published_files_tell_their_family(shared, place, family):
    given = json.loads((shared / place / "config.json").read_text())
    found = FAMILIES.of_config(given)
    assert found.name == family
    assert found.read_config(given, place).num_layers == given.get("num_layers", given.get("num_hidden_layers"))


def test_what_a_family_names_is_there():
    for family in FAMILIES:
        assert TOKENIZERS.get(family.tokenizer).__name__ == family.tokenizer
        assert family.chat_format in FORMATS
        config = family.config_class()()
        assert imported(f"{family.weights}:WEIGHTS") and FAMILIES.of(config).network == family.network
        assert family.divided(config, 2).size == 2 and family.written(config, family.form)["model_type"]
        assert family.lora_targets() == ".*query_key_value*"
        assert family.config_class().__name__ == "ChatGLM2Config"
    with pytest.raises(ConfigError, match="family: got 'llama'"):
        FAMILIES.get("llama")


def test_families_and_tokenizers_need_no_mindspore():
    code = (
        "import sys; sys.modules['mindspore'] = None\n"
        "from mindformers_glm.models.family import FAMILIES\n"
        "import mindformers_glm.tokenizers, mindformers_glm.models.glm.native_config\n"
        "print(len(list(FAMILIES)), [family.config_class() for family in FAMILIES][0].__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["8", "ChatGLM2Config"], done.stderr
