"""Tokenizers: damaged vocabularies, settings with any value, other files in their place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from inputs import DEEP, STAND_INS, Input, generator, spoilt_bytes, spoilt_values

FAMILY = "tokenizers"
_CODE = """
from mindformers_glm import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({place!r})
ids = tokenizer("你好, hello")["input_ids"]
print(tokenizer.decode(ids))
"""
_SETTINGS = {
    "tokenizer_class": "ChatGLM2Tokenizer",
    "padding_side": "left",
    "model_max_length": 64,
    "auto_map": {"AutoTokenizer": ["t.T", None]},
    "chat_template": "{{ x }}",
    "add_bos_token": True,
    "added_tokens_decoder": {"3": {"content": "[MASK]", "special": True}},
    "eos_token": "</s>",
    "pad_token": {"content": "<unk>"},
    "do_lower_case": False,
    "clean_up_tokenization_spaces": False,
}


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    for folder, count in (("tokenizer", 60), ("ranks_tokenizer", 40)):
        path = bench / folder / "tokenizer.model"
        code = _CODE.format(place=folder)
        for title, damaged in spoilt_bytes(path.read_bytes(), generator(folder), count):
            files = {folder: bench / folder, f"{folder}/tokenizer.model": damaged}
            yield Input(FAMILY, f"{folder} {title}", code=code, files=files, expected="either", names=("tokenizer",))
        for title, what in STAND_INS.items():
            files = {
                f"{folder}/tokenizer_config.json": bench / folder / "tokenizer_config.json",
                f"{folder}/tokenizer.model": what,
            }
            yield Input(FAMILY, f"{folder} {title}", code=code, files=files, names=("tokenizer",))
    code = _CODE.format(place="tokenizer")
    for number, (key, settings) in enumerate(spoilt_values(_SETTINGS, generator("settings"), 70)):
        files = {"tokenizer": bench / "tokenizer", "tokenizer/tokenizer_config.json": json.dumps(settings)}
        yield Input(
            FAMILY, f"settings {number} {key}", code=code, files=files, expected="either", names=("tokenizer", key)
        )
    for title, content in DEEP.items():
        files = {"tokenizer": bench / "tokenizer", "tokenizer/tokenizer_config.json": content}
        yield Input(FAMILY, f"settings {title}", code=code, files=files, expected="either", names=("tokenizer",))
        files = {"tokenizer/tokenizer.json": content}
        yield Input(FAMILY, f"tokenizer.json {title}", code=code, files=files, names=("tokenizer",))
    for number, word in enumerate(("preprocess", "inspect-data")):
        for title, what in STAND_INS.items():
            files = {"texts.jsonl": bench / "texts.jsonl", "t/tokenizer.model": what}
            words = ("preprocess", "--input", "texts.jsonl", "--tokenizer-name-or-path", "t", "--output-prefix", "out")
            words = words if not number else ("inspect-data", "texts.jsonl", "--tokenizer", "t")
            yield Input(FAMILY, f"{word} {title}", words, files=files, names=("t", "tokenizer.model"))
