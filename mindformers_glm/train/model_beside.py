"""What makes a folder of trained weights a model: the network's configuration, adapter included, and the tokenizer."""

from __future__ import annotations

from pathlib import Path

from mindformers_glm.checkpoint.formats.folder import disk_fault
from mindformers_glm.checkpoint.load.model_files import config_file
from mindformers_glm.checkpoint.load.names import NAMINGS
from mindformers_glm.files import write_text
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.tokenizers.glm import GLMTokenizer


def describe_model(folder: Path, config: NetworkConfig, tokenizer: GLMTokenizer | None) -> None:
    """Writes config.yaml (with `pet_config` and its alpha, or `pre_seq_len`) and the tokenizer's files into `folder`.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    name, text = config_file(config, "mf10", NAMINGS["mf10"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except OSError as error:
        raise disk_fault(folder, error) from error
