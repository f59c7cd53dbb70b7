"""The tokenizer of a run's configuration. No MindSpore here."""

from __future__ import annotations

from mindformers_glm.config import RunConfig
from mindformers_glm.config.spec import Spec
from mindformers_glm.errors import ConfigError
from mindformers_glm.tokenizers.chatglm import check_fits
from mindformers_glm.tokenizers.glm import GLMTokenizer


def build_tokenizer(config: RunConfig) -> GLMTokenizer:
    """The tokenizer of `processor`, or of the first dataset that names one; it fits the network's vocabulary.

    Raises:
        ConfigError: none is configured, its file is missing, or it has more ids than the network.
    """
    processor = config.processor.arguments.get("tokenizer") if config.processor is not None else None
    of_data = (data.tokenizer for data in (config.eval_dataset, config.train_dataset) if data is not None)
    for spec in (processor, *of_data):
        if spec:
            return tokenizer_of(spec, config)
    raise ConfigError("processor.tokenizer", None, "Name a tokenizer: type and vocab_file.")


def tokenizer_of(spec: Spec, config: RunConfig) -> GLMTokenizer:
    """The tokenizer that a `tokenizer` section describes, checked against the network's vocabulary."""
    tokenizer = spec.build()
    check_fits(tokenizer, config.network.config.build().padded_vocab_size)
    return tokenizer
