"""From a checked configuration to its network with weights, its tokenizer and its datasets."""

from __future__ import annotations

from contextlib import nullcontext

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.memory import check_length
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.assembly.run_tokenizer import build_tokenizer, tokenizer_of  # noqa: F401 - parts of a run
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.config import RunConfig
from mindformers_glm.config.schema import DatasetSection
from mindformers_glm.config.spec import Spec
from mindformers_glm.data.build import build_dataset
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.initial import fill, unfilled
from mindformers_glm.models.interface import RecomputeConfig
from mindformers_glm.models.quantized import fill_integers
from mindformers_glm.parallel.mesh import mesh_from_config

_SLOW_ON_CPU = (
    "compute_dtype float16 is converted to float32 and back on every operation of this CPU: "
    "--model.model_config.compute_dtype float32 --model.model_config.param_init_type float32 is about ten times faster."
)


def ranks_of(config: RunConfig, *, training: bool) -> Ranks:
    """One process among those of the run, with the whole network's configuration; recomputation is for training only.

    Raises:
        ConfigError: a value of `model` is wrong, or it cannot be divided among the processes as the file says.
    """
    network = config.network.config.build()
    if training:
        section = config.recompute_config
        given = {name: getattr(section, name) for name in RecomputeConfig.model_fields}
        network = network.model_copy(update={"recompute_config": RecomputeConfig.model_construct(**given)})
    return Ranks.of(config, network)


def build_network(config: RunConfig, *, training: bool, ranks: Ranks | None = None) -> nn.Cell:
    """The network of `config.model` (this rank's part of it), without weights; not to be trained, without any values.

    Raises:
        ConfigError: a value of the section is wrong, or the device cannot compute in its types.
    """
    ranks = ranks or ranks_of(config, training=training)
    if runtime.device_target() == "CPU" and ranks.config.compute_dtype == "float16":
        log_once(_SLOW_ON_CPU)
    check_length(ranks.config, key="model.model_config.seq_length")
    quantised = ranks.config.quantization_bit  # the float weights that integers replace take no memory
    with nullcontext() if training and not quantised else unfilled():
        return ranks.network(config.network.arch.type, training=training)


def load_weights(
    model: nn.Cell, config: RunConfig, ranks: Ranks | None = None, *, adapter: str | None = None
) -> str | None:
    """Loads the weights that the configuration names; returns their place, None for random ones on request.

    A network with an adapter accepts a checkpoint without one when it is about to be trained, and when `adapter` names
    the adapter's own. Where `load_checkpoint` is an adapter, `checkpoint_name_or_path` names its base.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit. Random weights never stand in for it.
    """
    name = config.initial_weights
    if name is None:
        logger.info("Weights are random, as allow_random_weights asks.")
        fill(model)
        fill_integers(model, seed=config.seed)
        if ranks is not None:
            ranks.random_weights(model, config.network.arch.type)
        if adapter is not None:
            load_into(model, resolve(adapter).read())
        return None
    ranks = ranks or ranks_of(config, training=config.trains)
    base = ranks.config.checkpoint_name_or_path or None
    parts = parts_of(name, adapter=adapter, base=None if base == name else base)
    place, strategy = parts.base.weights, config.src_strategy_path_or_dir
    new = config.trains or parts.adapter is not None
    count = ranks.load_weights(model, place, strategy=strategy, new_adapter=new)
    logger.info("Loaded %d tensors from %s", count, place)
    if parts.adapter is not None:
        count = ranks.load_weights(model, parts.adapter.weights, strategy=strategy, new_adapter=False)
        logger.info("Loaded %d tensors of the adapter from %s", count, parts.adapter.weights)
    return str(place)


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
