r"""Shows what training sees: each token of a sample with its piece, its label and whether it is learned.

    mindformers-glm preview-data --config configs/glm2/run_glm2_6b_finetune.yaml --train_dataset_dir train.json
    mindformers-glm preview-data --data train.json --tokenizer glm2_folder --options max_target_length=64
    mindformers-glm preview-data --data chats.jsonl --tokenizer glm3_folder --tokenizer_type ChatGLM3Tokenizer \
        --dataset_type MultiTurnDataset --data_loader ConversationDataLoader --line 12

With --config, other arguments are those of run_mindformer.py; without it, --options sets keys of the dataset.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_glm.data.dataset import TokenDataset


def parser() -> argparse.ArgumentParser:
    """Our own arguments; the others set keys."""
    p = Parser(description=__doc__)
    p.add_argument("--config", help="YAML file of a training run")
    p.add_argument("--phase", choices=("train", "eval"), default="train", help="which dataset of it")
    p.add_argument("--data", help="data file, without a YAML file")
    p.add_argument("--tokenizer", help="name of a model, or folder or file of its vocabulary")
    p.add_argument("--tokenizer_type", default="ChatGLM2Tokenizer")
    p.add_argument("--dataset_type", default="KeyWordGenDataset")
    p.add_argument("--data_loader", default="ADGenDataLoader")
    p.add_argument("--index", type=whole(0), default=0, help="first sample to show, from 0")
    p.add_argument("--line", type=whole(), help="show the sample of this line of the file instead")
    p.add_argument("--count", type=whole(), default=1, help="how many samples")
    p.add_argument("--limit", type=whole(), help="tokens to show of each")
    p.add_argument("--statistics", action="store_true", help="count the tokens of the whole file")
    return p


def dataset_of(chosen: argparse.Namespace, others: list[str]) -> tuple[TokenDataset, Any]:
    """The dataset that the arguments describe, and a tokenizer to name its ids with."""
    from mindformers_glm.config.arguments import parse_command_line  # noqa: PLC0415 - not for --help
    from mindformers_glm.config.overrides import apply, parse_overrides  # noqa: PLC0415
    from mindformers_glm.data.build import build_dataset  # noqa: PLC0415
    from mindformers_glm.data.section import built_tokenizer  # noqa: PLC0415
    from mindformers_glm.tokenizers import files  # noqa: PLC0415

    if chosen.config:
        config, _ = parse_command_line(["--config", chosen.config, *others])
        key = f"{chosen.phase}_dataset"
        found, kind = config.dataset(chosen.phase)
        dataset = build_dataset(found, task=kind, seed=config.seed, batch_size=1, phase=chosen.phase)
        return dataset, dataset.tokenizer or built_tokenizer(found.tokenizer, f"{key}.tokenizer")
    if not chosen.data or not chosen.tokenizer:
        raise ConfigError("--data", chosen.data, "Give --config FILE, or --data FILE and --tokenizer FOLDER.")
    vocab_file, _ = files.load(chosen.tokenizer)
    section: dict[str, Any] = {
        "data_loader": {
            "type": chosen.data_loader,
            "dataset_dir": chosen.data,
            "phase": chosen.phase,
            "shuffle": False,
        },
        "tokenizer": {"type": chosen.tokenizer_type, "vocab_file": str(vocab_file)},
    }
    if others and others[-1] == "--options":
        raise ConfigError("--options", None, "Give keys with their values: max_target_length=64.")
    section = apply(section, parse_overrides([item for item in others if item != "--options"]))
    dataset = build_dataset(section, task={"type": chosen.dataset_type}, seed=0, batch_size=1, phase=chosen.phase)
    return dataset, dataset.tokenizer or built_tokenizer(section["tokenizer"], "--tokenizer")


def main(argv: list[str] | None = None) -> None:
    """Prints the samples asked for."""
    chosen, others = parser().parse_known_args(argv)
    from mindformers_glm.data import preview  # noqa: PLC0415 - not for --help

    dataset, tokenizer = dataset_of(chosen, others)
    first = chosen.index if chosen.line is None else preview.sample_of_line(dataset, chosen.line)
    for index in range(first, min(first + chosen.count, max(dataset.num_rows, first + 1))):
        print(preview.table(dataset, index, tokenizer, limit=chosen.limit), end="\n\n")
    if chosen.statistics:
        print(dataset.survey())
