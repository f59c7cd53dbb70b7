"""Export as run mode: a checked configuration in, graphs on disk out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindspore import nn

from mindformers_glm.config import RunConfig
from mindformers_glm.export.export import export_model
from mindformers_glm.export.lite.convert import convert_lite
from mindformers_glm.export.plan import make_plan
from mindformers_glm.files import user_path
from mindformers_glm.log import logger
from mindformers_glm.tokenizers.glm import GLMTokenizer

_MODEL = "model"


def export_run(config: RunConfig, network: Callable[[], nn.Cell], tokenizer: GLMTokenizer | None = None) -> Path:
    """Writes what `infer` asks for, and with `model_type: mindir_lite` Lite's own file too; the path of the manifest.

    `network` builds the network with its weights, after the names have been found to go together.

    Raises:
        ConfigError, CheckpointError: names, tokenizer or weights do not fit.
        DeviceError: `mindir_lite`, and there is no MindSpore Lite.
    """
    shape = config.network.config.build()
    plan = make_plan(
        config.infer,
        folder=user_path(config.output_dir) / "mindir",
        model_name=config.trainer.model_name or _MODEL,
        seq_length=shape.seq_length,
        rows=shape.batch_size or 1,
    )
    manifest = export_model(network(), plan, tokenizer=tokenizer or _tokenizer(config))
    if config.infer and config.infer.model_type == "mindir_lite":
        convert_lite(manifest)
    return manifest


def _tokenizer(config: RunConfig) -> GLMTokenizer | None:
    """The tokenizer of `processor`; None, and a line in the log, where its vocabulary is not on this machine."""
    spec = config.processor.arguments.get("tokenizer") if config.processor is not None else None
    if spec and spec.get("vocab_file"):
        return spec.build()
    logger.warning("No tokenizer is exported: processor.tokenizer.vocab_file is not set. Lite will need one.")
    return None
