"""pipeline("text_generation", ...): prompts as text in, text out."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm.auto import AutoModel, AutoTokenizer
from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.predict import predict
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.registry import PIPELINES
from mindformers_glm.tokenizers.chatglm import GLMTokenizer, check_fits

_TASK = "text_generation"
_BACKENDS = ("ms",)


@PIPELINES.register(_TASK)
class TextGenerationPipeline:
    """Calls with one prompt or several give `[{"text_generation_text": [prompt and reply]}, ...]`.

    `model` is a network, or anything that AutoModel.from_pretrained takes; `tokenizer` likewise, and may be left out
    where the model's name says which. Keyword arguments that are keys of ChatGLM2Config and not of generating go to
    the network, all others are defaults for generating, which each call may override.
    """

    def __init__(
        self,
        model: nn.Cell | str | Path,
        tokenizer: GLMTokenizer | str | Path | None = None,
        *,
        batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        if tokenizer is None:
            if isinstance(model, nn.Cell):
                raise ConfigError("tokenizer", None, "Give the tokenizer that belongs to this network.")
            tokenizer = model
        if isinstance(model, nn.Cell):
            self.model, self.settings = model, settings
        else:
            of_network = {name: settings.pop(name) for name in list(settings) if name in _network_keys()}
            self.model, self.settings = AutoModel.from_pretrained(model, **of_network), settings
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer
        check_fits(self.tokenizer, self.model.config.padded_vocab_size)
        self.batch_size = batch_size

    def __call__(self, inputs: str | list[str], **settings: Any) -> list[dict[str, list[str]]]:
        """A result for each prompt.

        Raises:
            GenerationError: a setting or prompt that the model cannot honour.
        """
        settings = {"batch_size": self.batch_size, **self.settings, **settings}
        ends = {*GenerationConfig.from_model(self.model.config).stop_ids, *self.tokenizer.stop_ids}
        settings.setdefault("eos_token_id", sorted(ends))
        return predict(self.model, self.tokenizer, inputs, **settings)


def pipeline(
    task: str | None = None,
    model: nn.Cell | str | Path | None = None,
    tokenizer: GLMTokenizer | str | Path | None = None,
    image_processor: Any = None,
    audio_processor: Any = None,
    backend: str = "ms",
    **settings: Any,
) -> TextGenerationPipeline:
    """The pipeline of a task; `text_generation` is the only one for GLM.

    Raises:
        ConfigError: another task or backend, or no model.
    """
    if backend not in _BACKENDS:
        raise ConfigError("backend", backend, f"Use one of {', '.join(_BACKENDS)}.")
    for name, value in (("image_processor", image_processor), ("audio_processor", audio_processor)):
        if value is not None:
            raise ConfigError(name, value, "GLM takes text only.")
    if model is None:
        raise ConfigError("model", None, "Name a model, for example model='glm2_tiny'.")
    factory = PIPELINES.get(task or _TASK, "task")
    return factory(model, tokenizer, **settings)


def _network_keys() -> set[str]:
    """Keys of the network's configuration that are no generation settings."""
    return set(ChatGLM2Config.model_fields) - {field.name for field in fields(GenerationConfig)}
