"""The families that the one network of models/glm serves, and how each is told by its config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mindformers_glm.models.family import FAMILIES, Family
from mindformers_glm.models.recognise import families_named

_HERE = "mindformers_glm.models.glm"
_GLM4_VOCABULARY = 151552  # rows of the embedding of every GLM-4
_READERS = {"hf": f"{_HERE}.hf_config:from_file", "native": f"{_HERE}.native_config:from_file"}


def _family(
    name: str,
    *marks: str,
    form: str,
    tokenizer: str,
    chat_format: str,
    reads: Callable[[Mapping[str, Any]], bool],
    words: tuple[str, ...] = (),
    context: Callable[[Mapping[str, Any]], bool] = lambda given: False,
) -> None:
    """Registers one; what it does not say, all of them share."""
    FAMILIES.add(
        Family(
            name,
            config=f"{_HERE}.config:ChatGLM2Config",
            network=f"{_HERE}.model:ChatGLM2ForConditionalGeneration",
            weights=f"{_HERE}.weights",
            division=f"{_HERE}.shards:TensorDivision",
            parallel=f"{_HERE}.parallelize",
            training=f"{_HERE}.training",
            stages=f"{_HERE}.stages",
            divides=f"{_HERE}.divide:divide_weights",
            form=form,
            reads=reads,
            reader=_READERS[form],
            writers={"hf": f"{_HERE}.hf_config:to_hf", "native": f"{_HERE}.native_config:to_native"},
            infers=f"{_HERE}.inferred:inferred_config",
            adapted="query_key_value",
            tokenizer=tokenizer,
            chat_format=chat_format,
            vocabulary="byte pairs" if tokenizer == "ChatGLM4Tokenizer" else "sentencepiece",
            marks=marks,
            words=words,
            context=context,
            described=f"{_HERE}.weights",
        )
    )


def _type(given: Mapping[str, Any]) -> str:
    return str(given.get("model_type", "chatglm"))


def _rows(given: Mapping[str, Any]) -> Any:
    return given.get("padded_vocab_size", given.get("vocab_size"))


def _is_chatglm(given: Mapping[str, Any], name: str) -> bool:
    named = families_named(given.get("_name_or_path"))
    one_tokenizer = len({family.tokenizer for family in named}) == 1
    return _type(given) == "chatglm" and one_tokenizer and name in {family.name for family in named}


def _ratio(given: Mapping[str, Any]) -> Any:
    return given.get("rope_ratio", 1)


def _has_8k(given: Mapping[str, Any]) -> bool:
    return _ratio(given) == 1 and given.get("seq_length") == 8192


_family(
    "codegeex2",
    r"codegeex-?2(?![0-9])",
    form="hf",
    tokenizer="ChatGLM2Tokenizer",
    chat_format="codegeex2",
    reads=lambda given: _type(given) == "chatglm" and "rotary_percent" in given and _rows(given) != _GLM4_VOCABULARY,
    context=lambda given: _has_8k(given) and "rotary_percent" in given,
)
_family(
    "glm4",
    *(r"glm-?4(?![0-9])", r"codegeex-?4(?![0-9])", "longwriter"),
    form="hf",
    tokenizer="ChatGLM4Tokenizer",
    chat_format="glm4",
    reads=lambda given: _is_chatglm(given, "glm4") or (_type(given) == "chatglm" and _rows(given) == _GLM4_VOCABULARY),
)
_family(
    "chatglm3",
    *(r"glm-?3(?![0-9])", "glm32k"),
    form="hf",
    tokenizer="ChatGLM3Tokenizer",
    chat_format="roles",
    reads=lambda given: _is_chatglm(given, "chatglm3"),
    words=("<|assistant|>", "<|user|>", "<|{{", "<|observation|>"),
    context=lambda given: _ratio(given) in (50, 500) or (_has_8k(given) and "rotary_percent" not in given),
)
_family(
    "glm_z1",
    "glm[-_]?z1",
    form="native",
    tokenizer="ChatGLM4Tokenizer",
    chat_format="glm_z1",
    reads=lambda given: _type(given) == "glm4" and "z1" in str(given.get("_name_or_path", "")).lower(),
)
_family(
    "glm4_0414",
    "glm-?4.*0414",
    form="native",
    tokenizer="ChatGLM4Tokenizer",
    chat_format="glm4_0414",
    reads=lambda given: _type(given) == "glm4",
)
_family(
    "glm_edge",
    "glm[-_]?edge",
    form="native",
    tokenizer="ChatGLM4Tokenizer",
    chat_format="glm_edge",
    reads=lambda given: _type(given) == "glm" and not given.get("attention_bias", False),
)
_family(
    "glm4_hf",
    form="native",
    tokenizer="ChatGLM4Tokenizer",
    chat_format="glm4",
    reads=lambda given: _type(given) == "glm",
)
_family(  # the last of its form: what names no other is read as ChatGLM2, or refused by the reader with the reason
    "chatglm2",
    r"glm-?2(?![0-9])",
    form="hf",
    tokenizer="ChatGLM2Tokenizer",
    chat_format="rounds",
    reads=lambda given: True,
    words=("[Round",),
    context=lambda given: _ratio(given) == 16,  # ChatGLM2-6B-32k
)
