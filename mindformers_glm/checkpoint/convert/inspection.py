"""What is this file? Format, whose names, network, types, adapter, training state - and what is wrong with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mindformers_glm.checkpoint.convert.checks import check_adapter, check_complete
from mindformers_glm.checkpoint.convert.job import Opened, open_checkpoint, vocabulary_size
from mindformers_glm.checkpoint.convert.megatron import MegatronWeights
from mindformers_glm.checkpoint.formats.blocks import converted
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.model_files import check_tokenizer
from mindformers_glm.checkpoint.load.names import LORA_NAME, PREFIX_NAME, is_adapter
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.interface import NetworkConfig

_NAMINGS = {
    "hf": "official (Hugging Face)",
    "native": "GlmForCausalLM of transformers",
    "mf10": "MindFormers to 1.1, and ours",
    "mf12": "MindFormers 1.2 and 1.3",
    "mf15": "MindFormers 1.5 and later, separate query, key and value",
    "mcore": "Mcore of MindFormers 1.5 to 2.1",
    "": "the same in all namings",
}


@dataclass
class Inspection:
    """The findings: `facts` in order, `tensors` as (name, shape, type), `problems` in words."""

    path: Path
    facts: dict[str, str]
    tensors: list[tuple[str, tuple[int, ...], str]]
    problems: list[str] = field(default_factory=list)

    def lines(self, *, tensors: bool = False) -> Iterator[str]:
        """The findings as text."""
        for key, value in self.facts.items():
            yield f"{key:<14}{value}"
        if tensors:
            for name, shape, dtype in self.tensors:
                yield f"  {name}  {list(shape)}  {dtype}"
        for problem in self.problems:
            yield f"problem: {problem}"
        if not self.problems:
            yield "no problems found"


def inspect_checkpoint(
    path: str | Path,
    *,
    config: str | Path | None = None,
    rank: int = 0,
    values: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Inspection:
    """What a checkpoint holds and what is wrong with it; with `values` every number is read.

    Raises:
        CheckpointError: it cannot be read at all.
    """
    opened = open_checkpoint(path, config=config, rank=rank)
    source = opened.source
    tensors = [(name, source.shape(name), source.dtype(name)) for name in source.names]
    found = Inspection(source.path, _facts(opened, tensors), tensors)
    if source.unknown:
        found.problems.append(f"{len(source.unknown)} unknown names: {', '.join(source.unknown[:6])}")
    network, vocabulary = opened.config, opened.tokenizer
    if network is not None:
        _check(found, partial(check_complete, source, source.names, network))
    _check(found, lambda: check_adapter(source, source.names, opened.config, opened.pet_config))
    if vocabulary is not None and opened.exact and network is not None:
        _check(found, partial(_check_tokenizer, vocabulary, network))
    if values:
        for name in source.names:
            _check(found, partial(_read_all, source, name, progress))
    return found


def _facts(opened: Opened, tensors: list[tuple[str, tuple[int, ...], str]]) -> dict[str, str]:
    source = opened.source
    types = Counter(dtype for _, _, dtype in tensors)
    parameters = sum(math.prod(shape) for _, shape, _ in tensors)
    facts = {
        "path": str(source.path),
        "format": f"{source.format}, {len(source.files)} file{'s' * (len(source.files) != 1)}",
        "names": _NAMINGS.get(source.naming, f"mixed ({source.naming})"),
        "holds": source.kind,
        "tensors": f"{len(tensors)}, {parameters:,} parameters",
        "types": ", ".join(f"{count} x {dtype}" for dtype, count in types.most_common()),
    }
    if isinstance(source, WeightSource) and source.packing:
        facts["stored as"] = f"{source.packing}, read as the floats that they stand for"
    if opened.config is not None and any(not is_adapter(name) for name in source.names):
        facts["network"] = _network(opened.config, exact=opened.exact)
    layers = peft.adapted_layers(source.names)
    if layers:
        rank = source.shape(layers[0] + LORA_NAME + "a")[0]
        alpha = opened.pet_config["lora_alpha"] if opened.pet_config else "in no file"
        variants = [key for key in peft.VARIANTS if (opened.pet_config or {}).get(key)]
        facts["LoRA"] = ", ".join([f"{len(layers)} layers", f"rank {rank}", f"alpha {alpha}", *variants])
    if PREFIX_NAME in source:
        facts["prefix"] = f"P-Tuning v2, {source.shape(PREFIX_NAME)[0]} positions"
    if isinstance(source, WeightSource) and source.state:
        facts["training"] = _training(source)
    if source.ignored:
        reasons = Counter(source.ignored.values())
        facts["not needed"] = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
    return facts


def _network(config: NetworkConfig, *, exact: bool) -> str:
    text = (
        f"{config.num_layers} layers, hidden {config.hidden_size}, ffn {config.ffn_hidden_size}, "
        f"{config.num_attention_heads} heads of {config.kv_channels}, {config.num_kv_heads} kv heads, "
        f"vocabulary {config.padded_vocab_size}"
    )
    return text if exact else text + " (from shapes; channels of a head are a guess)"


def _training(source: WeightSource) -> str:
    counters = []
    for name in ("epoch_num", "step_num", "global_step", "loss_scale"):
        if name in source.state:
            counters.append(f"{name} {source.read_state(name).reshape(-1)[0]:g}")
    moments = sum("." in name for name in source.state)
    return ", ".join([*counters, f"{moments} optimizer tensors"])


def _check_tokenizer(folder: Path, config: NetworkConfig) -> None:
    check_tokenizer(vocabulary_size(folder), config, place=folder)


def _read_all(source: WeightSource | MegatronWeights, name: str, progress: Callable[[int], None]) -> None:
    shape = source.shape(name)
    blocks = source.blocks(name, 0, shape[0] if shape else 1)
    for block in converted(blocks, source.dtype(name), source.dtype(name), name=name, place=source.path):
        progress(block.nbytes)


def _check(found: Inspection, check: Callable[[], object]) -> None:
    try:
        check()
    except CheckpointError as error:
        found.problems.append(str(error))
