"""The small models by family: how they are spoken to, what their network looks like, what they learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.config.names import ASSETS
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.tokenizers.chatglm import ChatGLM2Tokenizer, ChatGLM3Tokenizer
from tools.tiny import writing
from tools.tiny.sample import NAME, Maker

_SHAPE = {
    "kv_channels": 32,
    "multi_query_group_num": 2,
    "seq_length": 1024,
    "param_init_type": "float32",
    "compute_dtype": "float32",
    "layernorm_compute_type": "float32",
    "max_decode_length": 1024,
    "do_sample": False,
}


class Family(NamedTuple):
    """A small model that ships: its name in texts, its tokenizer, its shape, the skills that its form cannot say."""

    name: str
    tokenizer: type
    shape: dict[str, Any]
    without: tuple[str, ...] = ()
    vocabulary: Path | None = None  # a tokenizer.model that is kept; None trains one on the corpus
    lengths: Mapping[str, int] = {}  # what its config.yaml says in place of the rows' length
    skills: Mapping[str, tuple[float, Maker]] = {}  # what its corpus has in place of corpus.SKILLS

    def config(self) -> ChatGLM2Config:
        """The network's configuration in its training."""
        return ChatGLM2Config(**{**_SHAPE, **self.shape})

    def shipped(self) -> ChatGLM2Config:
        """The configuration beside the weights: that of the training, and the lengths that the model is known by."""
        return ChatGLM2Config(**{**_SHAPE, **self.shape, **self.lengths})

    def said(self, text: str) -> str:
        """A text of the corpus with the name of this model."""
        return text.replace(NAME, self.name)

    def reads(self, path: str | Path) -> Any:
        """The tokenizer of a tokenizer.model."""
        return self.tokenizer(str(path))


FAMILIES = {
    "glm3": Family(
        "GLM3-Tiny",
        ChatGLM3Tokenizer,
        {
            "num_layers": 6,
            "hidden_size": 256,
            "ffn_hidden_size": 640,
            "num_attention_heads": 8,
            "padded_vocab_size": 4608,
        },
    ),
    "glm2": Family(
        "GLM2-Tiny",
        ChatGLM2Tokenizer,
        {
            "num_layers": 4,
            "hidden_size": 192,
            "ffn_hidden_size": 640,
            "num_attention_heads": 6,
            "padded_vocab_size": 4096,
        },
        without=("tool_reply", "no_tool", "persona"),
        vocabulary=ASSETS / "glm2_tiny/tokenizer.model",
        lengths={"seq_length": 512, "max_decode_length": 256},
        skills={"advert": (26, writing.advert), "request": (9, writing.request)},
    ),
}
