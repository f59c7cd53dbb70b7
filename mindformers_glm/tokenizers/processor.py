"""The `processor:` section: a tokenizer with fixed options for padding and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import PROCESSORS, TOKENIZERS
from mindformers_glm.tokenizers.encoding import Encoding
from mindformers_glm.tokenizers.glm import GLMTokenizer


@PROCESSORS.register()
class GLMProcessor:
    """Text -> `input_ids` in the form that predict feeds to the model."""

    def __init__(
        self,
        tokenizer: dict | GLMTokenizer | None = None,
        max_length: int | None = None,
        padding: bool | str = False,
        return_tensors: str = "ms",
    ) -> None:
        built = TOKENIZERS.build(tokenizer, "processor.tokenizer") if isinstance(tokenizer, Mapping) else tokenizer
        self.tokenizer = built
        self.max_length, self.padding, self.return_tensors = max_length, padding, return_tensors

    def __call__(self, text: str | list[str], **options: Any) -> Encoding:
        """Encoding of a text or of several, arrays (B, T) unless `return_tensors=None`."""
        if self.tokenizer is None:
            raise ConfigError("processor.tokenizer", None, "Name a tokenizer: type and vocab_file.")
        texts = [text] if isinstance(text, str) else text
        defaults = {"max_length": self.max_length, "padding": self.padding, "return_tensors": self.return_tensors}
        return self.tokenizer(texts, **{**defaults, **options})
