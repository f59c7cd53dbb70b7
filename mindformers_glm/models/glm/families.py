"""The families that the one network of models/glm serves, and how each is told by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.models.family import FAMILIES, Family
from mindformers_glm.tokenizers.recognise import named_model

_HERE = "mindformers_glm.models.glm"
_SHARED = {
    "config": f"{_HERE}.config:ChatGLM2Config",
    "network": f"{_HERE}.model:ChatGLM2ForConditionalGeneration",
    "weights": f"{_HERE}.weights",
    "division": f"{_HERE}.shards",
}
_CHATGLM = {**_SHARED, "form": "hf", "reader": f"{_HERE}.hf_config:from_file"}
_NATIVE = {**_SHARED, "form": "transformers", "reader": f"{_HERE}.native_config:from_file"}
_GLM3_STOPS = ("</s>", "<|user|>", "<|observation|>")
_GLM4_STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")
_GLM4_VOCABULARY = 151552  # rows of the embedding of every GLM-4


def _type(given: Mapping[str, Any]) -> str:
    return str(given.get("model_type", "chatglm"))


def _rows(given: Mapping[str, Any]) -> Any:
    return given.get("padded_vocab_size", given.get("vocab_size"))


def _is_chatglm(given: Mapping[str, Any], number: int) -> bool:
    return _type(given) == "chatglm" and named_model(given.get("_name_or_path")) == number


FAMILIES.add(
    Family(
        "codegeex2",
        **_CHATGLM,
        reads=lambda given: (
            _type(given) == "chatglm" and "rotary_percent" in given and _rows(given) != _GLM4_VOCABULARY
        ),
        tokenizer="ChatGLM2Tokenizer",
        chat_format="codegeex2",
        stop_tokens=("</s>",),
        marks=("codegeex2",),
    )
)
FAMILIES.add(
    Family(
        "glm4",
        **_CHATGLM,
        reads=lambda given: _is_chatglm(given, 4) or (_type(given) == "chatglm" and _rows(given) == _GLM4_VOCABULARY),
        tokenizer="ChatGLM4Tokenizer",
        chat_format="glm4",
        stop_tokens=_GLM4_STOPS,
        marks=("glm-4", "glm4", "codegeex4", "longwriter"),
    )
)
FAMILIES.add(
    Family(
        "chatglm3",
        **_CHATGLM,
        reads=lambda given: _is_chatglm(given, 3),
        tokenizer="ChatGLM3Tokenizer",
        chat_format="roles",
        stop_tokens=_GLM3_STOPS,
        marks=("chatglm3", "glm3"),
    )
)
FAMILIES.add(
    Family(
        "glm_z1",
        **_NATIVE,
        reads=lambda given: _type(given) == "glm4" and "z1" in str(given.get("_name_or_path", "")).lower(),
        tokenizer="ChatGLM4Tokenizer",
        chat_format="glm_z1",
        stop_tokens=_GLM4_STOPS,
        marks=("z1",),
    )
)
FAMILIES.add(
    Family(
        "glm4_0414",
        **_NATIVE,
        reads=lambda given: _type(given) == "glm4",
        tokenizer="ChatGLM4Tokenizer",
        chat_format="glm4_0414",
        stop_tokens=_GLM4_STOPS,
        marks=("0414",),
    )
)
FAMILIES.add(
    Family(
        "glm_edge",
        **_NATIVE,
        reads=lambda given: _type(given) == "glm" and not given.get("attention_bias", False),
        tokenizer="ChatGLM4Tokenizer",
        chat_format="glm_edge",
        stop_tokens=_GLM4_STOPS,
        marks=("edge",),
    )
)
FAMILIES.add(
    Family(
        "glm4_hf",
        **_NATIVE,
        reads=lambda given: _type(given) == "glm",
        tokenizer="ChatGLM4Tokenizer",
        chat_format="glm4",
        stop_tokens=_GLM4_STOPS,
    )
)
FAMILIES.add(  # the last of its form: what names no other is read as ChatGLM2, or refused by the reader with the reason
    Family(
        "chatglm2",
        **_CHATGLM,
        reads=lambda given: True,
        tokenizer="ChatGLM2Tokenizer",
        chat_format="rounds",
        stop_tokens=("</s>",),
        marks=("chatglm2", "glm2"),
    )
)
