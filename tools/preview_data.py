#!/usr/bin/env python3
r"""Shows what training sees: each token of a sample with its piece, its label and whether it is learned.

    python tools/preview_data.py --config configs/glm2/run_glm2_6b_finetune.yaml --train_dataset_dir train.json
    python tools/preview_data.py --data train.json --tokenizer glm2_folder --options max_target_length=64
    python tools/preview_data.py --data chats.jsonl --tokenizer glm3_folder --tokenizer_type ChatGLM3Tokenizer \
        --dataset_type MultiTurnDataset --data_loader ConversationDataLoader --line 12

With --config, other arguments are those of run_mindformer.py; without it, --options sets keys of the dataset.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindformers_glm.cli import report  # noqa: E402
from mindformers_glm.config.arguments import parse_command_line  # noqa: E402
from mindformers_glm.config.overrides import apply, parse_overrides  # noqa: E402
from mindformers_glm.data import preview  # noqa: E402
from mindformers_glm.data.build import build_dataset  # noqa: E402
from mindformers_glm.data.dataset import TokenDataset  # noqa: E402
from mindformers_glm.data.section import built_tokenizer  # noqa: E402
from mindformers_glm.errors import ConfigError  # noqa: E402
from mindformers_glm.tokenizers import files  # noqa: E402


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Our own arguments, and the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file of a training run")
    parser.add_argument("--phase", choices=("train", "eval"), default="train", help="which dataset of it")
    parser.add_argument("--data", help="data file, without a YAML file")
    parser.add_argument("--tokenizer", help="folder or file of the vocabulary")
    parser.add_argument("--tokenizer_type", default="ChatGLM2Tokenizer")
    parser.add_argument("--dataset_type", default="KeyWordGenDataset")
    parser.add_argument("--data_loader", default="ADGenDataLoader")
    parser.add_argument("--index", type=int, default=0, help="first sample to show, from 0")
    parser.add_argument("--line", type=int, help="show the sample of this line of the file instead")
    parser.add_argument("--count", type=int, default=1, help="how many samples")
    parser.add_argument("--limit", type=int, help="tokens to show of each")
    parser.add_argument("--statistics", action="store_true", help="count the tokens of the whole file")
    return parser.parse_known_args(argv)


def dataset_of(chosen: argparse.Namespace, others: list[str]) -> tuple[TokenDataset, Any]:
    """The dataset that the arguments describe, and a tokenizer to name its ids with."""
    if chosen.config:
        config, _ = parse_command_line(["--config", chosen.config, *others])
        key = f"{chosen.phase}_dataset"
        section, task = config[key], config[f"{key}_task"]
        dataset = build_dataset(section, task=task or {}, seed=config.seed, batch_size=1, phase=chosen.phase)
        return dataset, dataset.tokenizer or built_tokenizer((section or {}).get("tokenizer"), f"{key}.tokenizer")
    if not chosen.data or not chosen.tokenizer:
        raise ConfigError("--data", chosen.data, "Give --config FILE, or --data FILE and --tokenizer FOLDER.")
    vocab_file, _ = files.load(Path(chosen.tokenizer))
    section: dict[str, Any] = {
        "data_loader": {
            "type": chosen.data_loader,
            "dataset_dir": chosen.data,
            "phase": chosen.phase,
            "shuffle": False,
        },
        "tokenizer": {"type": chosen.tokenizer_type, "vocab_file": str(vocab_file)},
    }
    section = apply(section, parse_overrides([item for item in others if item != "--options"]))
    dataset = build_dataset(section, task={"type": chosen.dataset_type}, seed=0, batch_size=1, phase=chosen.phase)
    return dataset, dataset.tokenizer or built_tokenizer(section["tokenizer"], "--tokenizer")


def show(argv: list[str] | None = None) -> None:
    """Prints the samples asked for."""
    chosen, others = arguments(argv)
    dataset, tokenizer = dataset_of(chosen, others)
    first = chosen.index if chosen.line is None else preview.sample_of_line(dataset, chosen.line)
    for index in range(first, min(first + chosen.count, max(dataset.num_rows, first + 1))):
        print(preview.table(dataset, index, tokenizer, limit=chosen.limit), end="\n\n")
    if chosen.statistics:
        print(dataset.survey())


if __name__ == "__main__":
    sys.exit(report(show))
