"""Chat formats: how a family of models was trained to have a conversation written, and to answer.

One module each. A format turns messages into ids and labels, and says how a reply is to be read. Adding one is a module
here and a line in `FORMATS`; a tokenizer names the format of its model (`chat_format`).
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.tokenizers import files
from mindformers_glm.tokenizers.formats.base import ChatFormat, Signs

FORMATS: dict[str, str] = {  # name -> "module:class"; the later are the more particular
    "rounds": f"{__name__}.rounds:Rounds",  # ChatGLM2
    "roles": f"{__name__}.roles:Roles",  # ChatGLM3
    "glm4": f"{__name__}.glm4:Glm4",  # GLM-4-9B-chat, LongWriter, CodeGeeX4
    "glm_edge": f"{__name__}.glm_edge:GlmEdge",
    "glm4_0414": f"{__name__}.glm4_0414:Glm40414",  # GLM-4-*-0414
    "glm_z1": f"{__name__}.glm_z1:GlmZ1",  # GLM-Z1-*-0414
    "codegeex2": f"{__name__}.codegeex2:CodeGeeX2",
}


def chat_format(name: str, tokenizer: Any, *, tools_indent: int | None = 4) -> ChatFormat:
    """The format of this name, over a tokenizer.

    Raises:
        ConfigError: no format has this name.
    """
    if name not in FORMATS:
        raise ConfigError("tokenizer.chat_format", name, f"Use one of {', '.join(FORMATS)}.")
    return _class_of(name)(tokenizer, tools_indent=tools_indent)


def has_roles(name: str) -> bool:
    """Whether the prompts of a format are messages with roles."""
    return _class_of(name).has_roles


def chat_format_in(folder: str | Path, *, byte_pairs: bool) -> str | None:
    """The chat format that the files beside a tokenizer tell; None leaves it to the tokenizer's class.

    Each format is asked, the more particular first (`ChatFormat.is_told`).

    Raises:
        DataError: a file is no JSON.
    """
    folder = Path(folder)
    settings, config = (
        files.read_settings(folder / name) if (folder / name).is_file() else {}
        for name in (files.SETTINGS, "config.json")
    )
    names = (settings.get("name_or_path"), config.get("_name_or_path"), folder.resolve().name)
    name = " ".join(re.split(r"[/\\]", str(given))[-1].lower() for given in names if given)
    template = f"{settings.get('chat_template') or ''}{files.text(folder / files.TEMPLATE)}"
    signs = Signs(byte_pairs, template, name, config)
    return next((known for known in reversed(FORMATS) if _class_of(known).is_told(signs)), None)


def _class_of(name: str) -> type[ChatFormat]:
    module, _, attribute = FORMATS[name].partition(":")
    return getattr(import_module(module), attribute)
