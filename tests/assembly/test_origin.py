"""What is known of where a model comes from: how many tokens it takes, and its family."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.assembly.origin import origin_by_names, origin_of
from mindformers_glm.config.names import MODEL_NAMES, published_length


def test_every_name_has_a_length():
    lengths = {name: published_length(name) for name in MODEL_NAMES}
    assert None not in lengths.values()
    assert (lengths["glm2_6b_lora"], lengths["glm3_6b"], lengths["glm2_tiny_lora"]) == (32768, 8192, 512)
    assert published_length("THUDM/chatglm2-6b") == 32768
    assert published_length("output") is None


@pytest.mark.parametrize(
    ("name", "stated", "origin"),
    [
        ("glm2_6b", 193, (32768, "chatglm2")),
        ("glm3_6b_32k", 32768, (32768, "chatglm3")),
        ("glm4_9b_chat_1m", 193, (131072, "glm4")),
        ("codegeex2_6b", 193, (8192, "codegeex2")),
        ("glm_edge_4b", 193, (4096, "glm_edge")),
        ("glm3_6b", 16384, (16384, "chatglm3")),
        ("output/law", 193, (None, None)),
    ],
)
def test_what_a_name_tells(name, stated, origin):
    assert origin_by_names([None, name], stated, None, None) == (*origin, None)


def test_a_name_whose_yaml_states_rows_of_training():
    assert origin_of("glm2_tiny")[:2] == (512, "chatglm2")


@pytest.mark.parametrize(
    ("stated", "origin"),
    [
        ({"_name_or_path": "THUDM/chatglm3-6b"}, (8192, "chatglm3")),
        ({"_name_or_path": "/somewhere/chatglm2-6b"}, (None, "chatglm2")),
        ({"padded_vocab_size": 151552}, (None, "glm4")),
        ({}, (None, None)),
    ],
)
def test_a_folder_in_the_official_form(golden, tmp_path, stated, origin):
    source = golden / "hf_glm3_tiny"
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config.pop("_name_or_path", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, **stated}))
    assert origin_of(str(tmp_path))[:2] == origin
