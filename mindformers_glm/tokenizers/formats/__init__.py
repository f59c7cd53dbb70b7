"""Chat formats: how a family of models was trained to have a conversation written, and to answer.

One module each. A format turns messages into ids and labels, and says how a reply is to be read. Adding one is a module
here and a line in `FORMATS`; a tokenizer names the format of its model (`chat_format`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mindformers_glm.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_glm.tokenizers.formats.base import ChatFormat

FORMATS: dict[str, str] = {  # name -> "module:class"
    "rounds": f"{__name__}.rounds:Rounds",  # ChatGLM2
    "roles": f"{__name__}.roles:Roles",  # ChatGLM3
    "glm4": f"{__name__}.glm4:Glm4",  # GLM-4-9B-chat, LongWriter, CodeGeeX4
    "glm4_0414": f"{__name__}.glm4_0414:Glm40414",  # GLM-4-*-0414
    "glm_z1": f"{__name__}.glm_z1:GlmZ1",  # GLM-Z1-*-0414
    "glm_edge": f"{__name__}.glm_edge:GlmEdge",
    "codegeex2": f"{__name__}.codegeex2:CodeGeeX2",
}


def chat_format(name: str, tokenizer: Any, *, tools_indent: int | None = 4) -> ChatFormat:
    """The format of this name, over a tokenizer.

    Raises:
        ConfigError: no format has this name.
    """
    if name not in FORMATS:
        raise ConfigError("tokenizer.chat_format", name, f"Use one of {', '.join(FORMATS)}.")
    module, _, attribute = FORMATS[name].partition(":")
    return getattr(import_module(module), attribute)(tokenizer, tools_indent=tools_indent)
