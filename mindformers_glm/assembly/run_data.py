"""The datasets of a checked configuration, without MindSpore."""

from __future__ import annotations

from mindformers_glm import runtime
from mindformers_glm.assembly.run_tokenizer import tokenizer_of
from mindformers_glm.config import RunConfig
from mindformers_glm.config.schema import DatasetSection
from mindformers_glm.config.spec import Spec
from mindformers_glm.data.build import build_dataset
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.parallel.mesh import mesh_from_config


def build_data(config: RunConfig, phase: str, *, labels: bool | None = None) -> TokenDataset:
    """The dataset of `train_dataset` (phase "train") or `eval_dataset` (phase "eval"), with its tokenizer checked.

    `labels` as for build_dataset: what an evaluation does with the rows.

    Raises:
        ConfigError, DataError: a key is wrong, or the file is missing, empty or holds no usable line.
    """
    section, task = config.dataset(phase)
    loader = section.data_loader if phase == "train" else _kept_apart(section.data_loader, config.train_dataset)
    tokenizer = tokenizer_of(section.tokenizer, config) if section.tokenizer else None
    data = mesh_from_config(config, rank=runtime.rank(), world=runtime.rank_size()).data
    return build_dataset(
        section.model_copy(update={"data_loader": loader}),
        task=task,
        seed=config.seed,
        rank=data.rank if phase == "train" else 0,  # batches of an evaluation are shared out whole: evaluation/share.py
        rank_size=data.size if phase == "train" else 1,
        batch_size=config.runner_config.batch_size,
        phase=phase,
        tokenizer=tokenizer,
        labels=labels,
    )


def _kept_apart(loader: Spec, training: DatasetSection | None) -> Spec:
    """The loader; where it asks for the validation part and names no data, with the data of training."""
    if training is None or loader.get("part") != "validation" or loader.get("dataset_dir") or loader.get("datasets"):
        return loader
    source = training.data_loader.arguments
    same = ("dataset_dir", "dataset", "datasets", "columns", "validation_share", "split_seed", "max_bad_ratio")
    return loader.changed(**{name: source[name] for name in same if source.get(name)})
