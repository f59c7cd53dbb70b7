"""pipeline("text_generation", ...): prompts as text in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm.auto import AutoModel, AutoTokenizer
from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.prediction import predict
from mindformers_glm.export.lite.engine import open_lite
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.registry import PIPELINES
from mindformers_glm.tokenizers.chatglm import GLMTokenizer, check_fits

_TASK = "text_generation"
_BACKENDS = ("ms", "mslite")
# arguments of open_lite
_LITE = ("lite_python", "target", "threads", "device_id", "rank_id", "max_num_seqs", "max_rows")
_TEXT_NAMES = ("text", "prompt", "inputs")
_TOLD_BY_EXPORT = ("infer_seq_length", "dynamic", "paged_attention", "pa_block_size", "pa_num_blocks")


@PIPELINES.register(_TASK)
class TextGenerationPipeline:
    """Calls with one prompt or several give `[{"text_generation_text": [prompt and reply]}, ...]`.

    `model` is a network, or anything that AutoModel.from_pretrained takes; `tokenizer` likewise, and may be left out
    where the model's name says which. Keyword arguments that are keys of NetworkConfig and not of generating go to
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
        if not hasattr(self.tokenizer, "vocab_size"):
            raise ConfigError("tokenizer", self.tokenizer, "Give a tokenizer, or its name, folder or file.")
        check_fits(self.tokenizer, self.model.config.padded_vocab_size)
        self.batch_size = batch_size

    def __call__(self, inputs: Any, **settings: Any) -> list[dict[str, list[str]]]:
        """A result for each prompt: texts, or mappings with `text` (MindFormers' name), `prompt` or `inputs`.

        Raises:
            GenerationError: a setting or prompt that the model cannot honour.
        """
        settings = {"batch_size": self.batch_size, **self.settings, **settings}
        ends = GenerationConfig.from_model(self.model.config).ending_also(self.tokenizer.stop_ids)
        settings.setdefault("eos_token_id", list(ends.stop_ids))
        return predict(self.model, self.tokenizer, texts_of(inputs), **settings)


class LiteTextGenerationPipeline:
    """The same over an exported model in MindSpore Lite; `close` it, or use it in a `with` block.

    `model` is the folder of an export, one of its graphs, or its two graphs. `settings` are arguments of open_lite,
    and defaults for generating. MindFormers' arguments about the graph are accepted: the export knows them.
    """

    def __init__(
        self,
        model: str | Path | tuple[str | Path, str | Path],
        tokenizer: GLMTokenizer | str | Path | None = None,
        *,
        ge_config_path: str | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        options = {name: settings.pop(name) for name in _LITE if name in settings}
        self.settings = {name: value for name, value in settings.items() if name not in _TOLD_BY_EXPORT}
        path, increment = model if isinstance(model, (tuple, list)) else (model, None)
        self.lite = open_lite(path, increment=increment, tokenizer=tokenizer, config_path=ge_config_path, **options)
        if self.lite.tokenizer is None:
            self.close()
            raise ConfigError("tokenizer", None, "The export has none: give the one that belongs to this model.")
        self.tokenizer, self.batch_size = self.lite.tokenizer, batch_size

    def __call__(self, inputs: Any, **settings: Any) -> list[dict[str, list[str]]]:
        """A result for each prompt; see TextGenerationPipeline."""
        settings = {"batch_size": self.batch_size, **self.settings, **settings}
        return predict(self.lite.engine, self.tokenizer, texts_of(inputs), **settings)

    def __enter__(self) -> LiteTextGenerationPipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine and the worker process."""
        self.lite.close()


def texts_of(inputs: Any) -> Any:
    """Prompts out of mappings; what is none passes.

    Raises:
        ConfigError: a mapping without a text under a known name.
    """
    if isinstance(inputs, Mapping):
        found = [inputs[name] for name in _TEXT_NAMES if name in inputs]
        if len(found) != 1 or not isinstance(found[0], (str, list, tuple)):
            fix = f"Put the text under {_TEXT_NAMES[0]!r}, or give the text itself."
            raise ConfigError("inputs", dict(inputs), fix)
        return found[0]
    if isinstance(inputs, (list, tuple)):
        return [texts_of(item) if isinstance(item, Mapping) else item for item in inputs]
    return inputs


def pipeline(
    task: str | None = None,
    model: nn.Cell | str | Path | tuple[str | Path, str | Path] | None = None,
    tokenizer: GLMTokenizer | str | Path | None = None,
    image_processor: Any = None,
    audio_processor: Any = None,
    backend: str = "ms",
    **settings: Any,
) -> TextGenerationPipeline | LiteTextGenerationPipeline:
    """The pipeline of a task; `text_generation` is the only one for GLM. `backend` "mslite" is MindSpore Lite.

    Raises:
        ConfigError: another task or backend, or no model.
    """
    if backend not in _BACKENDS:
        raise ConfigError("backend", backend, f"Use one of {', '.join(_BACKENDS)}.")
    for name, value in (("image_processor", image_processor), ("audio_processor", audio_processor)):
        if value is not None:
            raise ConfigError(name, value, "GLM takes text only: leave it out.")
    if model is None:
        raise ConfigError("model", None, "Name a model, for example model='glm2_tiny'.")
    factory = PIPELINES.get(task or _TASK, "task")
    if backend == "mslite":
        return LiteTextGenerationPipeline(model, tokenizer, **settings)
    return factory(model, tokenizer, **settings)


def _network_keys() -> set[str]:
    """Keys of the network's configuration that are no generation settings."""
    return set(NetworkConfig.model_fields) - {field.name for field in fields(GenerationConfig)}
