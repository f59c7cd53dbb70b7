"""What a conversion will write, decided and checked before the first byte.

Forms: `ours` (folder: config.yaml, safetensors shards with MindFormers 1.0 names, tokenizer, manifest), `ours-panels`
(the same with integers in the order of the CPU's kernels, which start from them at once), `hf` (the official folder),
`official-int4`, `official-int8`, `gptq` (the same with packed integers), `transformers` (folder for GlmForCausalLM),
`mcore` (the same with the names of MindFormers' Mcore networks), `mindformers`, `mindformers-1.2`, `mindformers-1.5`
(one .ckpt each) and `peft` (adapter folder).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.checkpoint.convert.arrays import Source
from mindformers_glm.checkpoint.convert.checks import check_adapter, check_complete
from mindformers_glm.checkpoint.convert.forms import FORMS, PANELS
from mindformers_glm.checkpoint.convert.integers import Packing, Part, is_block_matrix, packing_of
from mindformers_glm.checkpoint.formats.dtypes import FLOATS, float_name
from mindformers_glm.checkpoint.formats.panel_files import SUFFIX
from mindformers_glm.checkpoint.formats.tensor_file import Entry
from mindformers_glm.checkpoint.load import peft
from mindformers_glm.checkpoint.load.names import (
    HF_PREFIX_NAME,
    LORA_NAME,
    NAMINGS,
    PREFIX_NAME,
    Naming,
    Target,
    is_adapter,
    is_reordered,
    targets,
)
from mindformers_glm.checkpoint.load.source import check_adapter_kinds
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.models.naming import bits_of, is_table, joins, tied
from mindformers_glm.ops.quantized import SCALE

SHARD_BYTES = 2 * 10**9


class OutTensor(NamedTuple):
    """One tensor to write: `target` says which rows of our weight it takes, `part` how a packed one is made of them.

    `has_panels`: the integers, or their scales, are written in the order of the kernels.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    ours: str
    target: Target | None
    part: Part | None = None
    has_panels: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return Entry(self.name, self.dtype, self.shape, ()).size


class OutFile(NamedTuple):
    """One file to write."""

    name: str
    tensors: list[OutTensor]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.size for tensor in self.tensors)


@dataclass
class ConversionPlan:
    """Everything a conversion will do, before it does it."""

    source: Source
    out: Path
    form: str
    naming: Naming
    config: NetworkConfig | None
    files: list[OutFile]
    left_out: dict[str, str] = field(default_factory=dict)
    pet_config: dict[str, Any] | None = None
    tokenizer: Path | None = None
    config_is_exact: bool = True

    @property
    def network(self) -> NetworkConfig:
        """`config` of a plan that needs one: every plan but that of an adapter alone.

        Raises:
            ConfigError: there is none.
        """
        return _needed(self.config, self.form)

    @property
    def is_folder(self) -> bool:
        """True for forms that are folders."""
        return not self.form.startswith("mindformers")

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(file.size for file in self.files)

    def lines(self) -> Iterator[str]:
        """The plan in words, a line at a time."""
        yield f"output {self.out} ({self.form}), {sum(len(f.tensors) for f in self.files)} tensors, {self.size:,} bytes"
        for file in self.files:
            yield f"  {file.name}: {len(file.tensors)} tensors, {file.size:,} bytes"
        for name, reason in self.left_out.items():
            yield f"  left out: {name} ({reason})"


def plan_conversion(
    source: Source,
    out: str | Path,
    form: str,
    *,
    config: NetworkConfig | None,
    dtype: str | None = None,
    naming: Naming | None = None,
    shard_bytes: int = SHARD_BYTES,
    pet_config: dict[str, Any] | None = None,
    tokenizer: Path | None = None,
    config_is_exact: bool = True,
) -> ConversionPlan:
    """The plan of a conversion; nothing is written. An adapter alone needs no `config`.

    Raises:
        CheckpointError: tensors are missing, surplus or misshapen for `config`, or have no place in the form.
        ConfigError: an unknown form.
    """
    if form not in FORMS:
        raise ConfigError("to", form, f"Use one of {', '.join(FORMS)}.")
    naming = naming or NAMINGS[FORMS[form]]
    dtype = float_name(dtype) if dtype else None
    check_adapter_kinds(source.path, getattr(source, "unknown", []))
    names, left_out = _chosen(source, form)
    if config is not None:
        check_complete(source, names, config)
        if form in ("transformers", "mcore"):
            FAMILIES.of(config).written(config, "native")  # raises where that network has no such flag
    check_adapter(source, names, config, pet_config)
    packing = packing_of(form, config) if config else None
    tensors = [tensor for name in names for tensor in _tensors(source, name, form, naming, config, dtype)]
    if packing is not None:
        tensors = [made for tensor in tensors for made in _packed(tensor, packing)]
    if form == PANELS:
        tensors = [_with_panels(tensor, source, _needed(config, form)) for tensor in tensors]
        if not any(tensor.has_panels for tensor in tensors):
            raise ConfigError("to", form, _quantise_first(source))
    if FORMS[form] == "hf" and any(not is_adapter(name) for name in names):
        tensors.append(_inv_freq(_needed(config, form), dtype or source.dtype(names[0])))
    files = _files(Path(out), tensors, form, shard_bytes)
    return ConversionPlan(
        source, Path(out), form, naming, config, files, left_out, pet_config, tokenizer, config_is_exact
    )


def _quantise_first(source: Source) -> str:
    """What to do about a source from which conversion reads floats."""
    packing, path = getattr(source, "packing", ""), source.path
    if getattr(source, "official_bits", 0):
        scheme = packing.replace(" ", "-")
        return f"{path} has {packing} weights: mindformers-glm quantize --scheme {scheme} --to {PANELS} keeps them."
    if packing == "W8A8":
        return f"{path} has W8A8 layers, which panels do not hold: use it as it is, or quantise the float weights."
    if packing:
        return (
            f"{path} has {packing} weights: take mindformers-glm quantize --to {PANELS}, with bits and groups of them."
        )
    return f"Panels hold integers, and {path} has floats. Quantise it first: mindformers-glm quantize."


def _chosen(source: Source, form: str) -> tuple[list[str], dict[str, str]]:
    """Our names to write, and the others with the reason."""
    adapters = [name for name in source.names if is_adapter(name)]
    base = [name for name in source.names if not is_adapter(name)]
    left_out = dict(getattr(source, "ignored", {}))
    left_out.update({name: "training state" for name in getattr(source, "state", {})})
    if form == "peft":
        chosen = [name for name in adapters if name != PREFIX_NAME]
        if not chosen:
            raise CheckpointError(str(source.path), "it has no LoRA to write as a PEFT adapter", "Give an adapter.")
        left_out.update({name: "belongs to the base model" for name in base})
        return chosen, left_out
    takes = FORMS[form] == "hf" and not base and PREFIX_NAME in adapters
    if FORMS[form] in ("hf", "native", "mcore") and adapters and not takes:
        raise CheckpointError(
            str(source.path),
            f"it has {len(adapters)} adapter tensors, for which {form} has no place",
            "Merge them first with tools/merge_lora.py, or write them with --to peft.",
        )
    return source.names, left_out


def _tensors(
    source: Source, name: str, form: str, naming: Naming, config: NetworkConfig | None, dtype: str | None
) -> list[OutTensor]:
    stored, shape = source.dtype(name), source.shape(name)
    is_scale = name.endswith(SCALE)  # of integers, which are not rounded a second time
    kind = dtype if dtype and stored in FLOATS and not is_scale else stored
    if is_adapter(name):
        _check_joined(source, name, naming)
        new = peft.peft_name(name) if form == "peft" else HF_PREFIX_NAME if form == "hf" else name
        target = Target(new, 0, shape[0], True) if naming.rearranged and is_reordered(name) else None
        return [OutTensor(new, kind, shape, name, target)]
    found = targets(name, naming, config) if config else []
    if not found:
        raise CheckpointError(str(source.path), f"{name} has no place in the form {form}", "Choose another form.")
    return [OutTensor(t.name, kind, (t.stop - t.start, *shape[1:]), name, t) for t in found]


def _packed(tensor: OutTensor, packing: Packing) -> list[OutTensor]:
    """The tensors that stand for one, itself where it stays a float."""
    if not is_block_matrix(tensor.ours):
        return [tensor]
    stem = tensor.name.removesuffix(".weight")
    parts = packing.parts(tensor.shape)
    return [OutTensor(stem + p.suffix, p.dtype, p.shape, tensor.ours, tensor.target, p) for p in parts]


def _with_panels(tensor: OutTensor, source: Source, config: NetworkConfig) -> OutTensor:
    """Integers of linear layers, and their scales, in panels; a table that tokens are looked up in stays in rows."""
    name = tensor.ours.removesuffix(SCALE)
    if is_table(name) or name in tied(config) or is_adapter(name) or not bits_of(name, config):
        return tensor
    dtype = "float16" if tensor.ours.endswith(SCALE) else source.dtype(tensor.ours)
    return tensor._replace(name=tensor.name + SUFFIX, dtype=dtype, has_panels=True)


def _check_joined(source: Source, name: str, naming: Naming) -> None:
    """Passes when the layer of a LoRA matrix is one layer in the naming too."""
    flag = joins(name) if LORA_NAME in name else None
    if flag is not None and {"qkv": naming.split_qkv, "mlp": naming.split_mlp}[flag]:
        layer = name.partition(LORA_NAME)[0].rpartition(".")[2]
        fault = f"it has LoRA of {layer}, which is several layers in this form"
        raise CheckpointError(str(source.path), fault, f"Use --{flag}_concat True, or merge it first.")


def _needed(config: NetworkConfig | None, form: str) -> NetworkConfig:
    if config is None:
        raise ConfigError("config", None, f"{form} states the network: give its configuration.")
    return config


def _inv_freq(config: NetworkConfig, dtype: str) -> OutTensor:
    return OutTensor("transformer.rotary_pos_emb.inv_freq", dtype, (config.kv_channels // 4,), "", None)


def _files(out: Path, tensors: list[OutTensor], form: str, shard_bytes: int) -> list[OutFile]:
    if form.startswith("mindformers"):
        return [OutFile(out.name, tensors)]
    if form == "peft":
        return [OutFile(peft.WEIGHTS, tensors)]
    shards: list[list[OutTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.size for t in shards[-1]) + tensor.size > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        return [OutFile("model.safetensors", shards[0])]
    count = len(shards)
    return [OutFile(f"model-{i:05d}-of-{count:05d}.safetensors", shard) for i, shard in enumerate(shards, 1)]
