"""A network as MindIR with everything a device needs beside it: manifest, configuration, tokenizer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mindspore as ms
import yaml
from mindspore import Parameter, nn

from mindformers_glm.adapters.lora import merge
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.model_files import check_tokenizer, to_yaml
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.export import graph_file
from mindformers_glm.export.manifest import Adapter, File, Fixed, Graph, Input, Manifest, Vocabulary, describe, sha256
from mindformers_glm.export.mindir_v1 import VERSION as LITE_2_0
from mindformers_glm.export.mindir_v1 import to_version_1
from mindformers_glm.export.network import INPUTS, OUTPUTS, PackedNetwork, Sizes, cache_dtype
from mindformers_glm.export.plan import INSIDE_BYTES, ExportPlan
from mindformers_glm.files import leaving_nothing, write_text
from mindformers_glm.log import logger
from mindformers_glm.mindspore_private import mind_ir_pb2 as proto
from mindformers_glm.models.build import build_model
from mindformers_glm.models.floats import float_weights, is_quantized
from mindformers_glm.models.initial import unfilled
from mindformers_glm.tokenizers.files import vocabulary_name
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.version import __version__

_BOTH = ["prefill", "increment"]


class _Traced(NamedTuple):
    """A graph, the names of files that hold it, its version and what it is used for."""

    stems: list[Path]
    version: int
    roles: list[str]
    sizes: Sizes
    graph: proto.ModelProto
    floats: dict[str, Parameter] | None = None  # its own weights, where it has other ones than the network


def export_model(model: nn.Cell, plan: ExportPlan, *, tokenizer: GLMTokenizer | None = None) -> Path:
    """Writes the graphs of `plan` and what belongs to them; the path of the manifest.

    Every file appears whole or not at all, the manifest last.

    Raises:
        ConfigError, CheckpointError: the tokenizer does not belong to the network, another export's tokenizer is in
            the way, or the graph has an operator that Lite 2.0 lacks.
    """
    begin = time.perf_counter()
    adapter: Adapter = "none"
    if model.config.pet_config or model.config.pre_seq_len:
        adapter = "merged" if plan.merge_adapter else "kept"
        model = merged(model) if plan.merge_adapter else model
    if tokenizer is not None:
        check_tokenizer(tokenizer.vocab_size, model.config, place=tokenizer.vocab_file)
    with leaving_nothing(plan.folder):
        manifest, graphs = _write_all(model, plan, tokenizer, adapter)
    logger.info("Exported to %s in %.1f s: %s", plan.folder, time.perf_counter() - begin, _summary(graphs))
    return manifest


def _write_all(
    model: nn.Cell, plan: ExportPlan, tokenizer: GLMTokenizer | None, adapter: Adapter
) -> tuple[Path, list[Graph]]:
    """Writes every file of the plan; the path of the manifest and the graphs in it."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    vocabulary = None if tokenizer is None else _save_tokenizer(tokenizer, plan.folder)
    weights = {parameter.name: parameter for parameter in model.get_parameters()}
    inside = not _is_shared(plan, weights)
    places = {} if inside else graph_file.write_weights(plan.weights, weights)
    shared = None if inside else plan.weights
    graphs = []
    for traced in _trace(model, plan):
        if traced.floats is None:
            graphs += _write(traced, _inputs(model, traced.sizes), weights, shared, places)
        else:
            graphs += _write(traced, _inputs(model, traced.sizes), traced.floats, None, {})
    _save_config(model, plan, tokenizer)
    manifest = Manifest(
        name=plan.name,
        versions={"mindformers_glm": __version__, "mindspore": ms.__version__},
        network=model.config.model_dump(mode="json", exclude={"checkpoint_name_or_path", "parallel_config"}),
        cache_dtype="float16" if cache_dtype(model) == ms.float16 else "float32",
        adapter=adapter,
        max_num_seqs=plan.rows,
        fixed=_fixed(plan, model.config.seq_length),
        tokenizer=vocabulary,
        weights=None if inside else _file(plan.folder, plan.weights),
        outputs=list(OUTPUTS),
        graphs=graphs,
    ).save(plan.folder)
    return manifest, graphs


def merged(model: nn.Cell) -> nn.Cell:
    """The same network without adapter, LoRA added to its weights.

    Raises:
        ConfigError: the adapter is a prefix, which cannot be added to weights.
    """
    if model.prefix_encoder is not None:
        raise ConfigError("infer.merge_lora", True, "A P-Tuning prefix is no part of the weights: leave it False.")
    with unfilled():
        plain = build_model(model.config.model_copy(update={"pet_config": None})).set_train(False)
    load_into(plain, merge(model))
    return plain


def with_floats(model: nn.Cell) -> nn.Cell:
    """The same network with the float32 weights that its integers stand for. W8A8 then rounds no inputs."""
    plain: dict[str, Any] = {"quantization_bit": 0, "quantization_scheme": None, "quantization_embedding_bits": 0}
    plain["embedding_type"] = "float32"
    with unfilled():
        made = build_model(model.config.model_copy(update=plain)).set_train(False)
    load_into(made, float_weights(model))
    return made


def _trace(model: nn.Cell, plan: ExportPlan) -> Iterator[_Traced]:
    length, slots = model.config.seq_length, plan.rows * model.config.seq_length
    plain = with_floats(model) if plan.for_lite_2_0 and is_quantized(model) else None
    any_length = _graph(model, Sizes()) if plan.dynamic or (plan.for_lite_2_0 and plain is None) else None
    if plan.dynamic:
        stems = list(dict.fromkeys([plan.prefill, plan.increment or plan.prefill]))
        yield _Traced(stems, graph_file.VERSION, _BOTH, Sizes(), any_length)
    else:
        sizes = Sizes(length, slots, plan.rows)
        yield _Traced([plan.prefill], graph_file.VERSION, _BOTH[:1], sizes, _graph(model, sizes))
        sizes = Sizes(plan.rows, slots, plan.rows)
        yield _Traced([plan.increment or plan.prefill], graph_file.VERSION, _BOTH[1:], sizes, _graph(model, sizes))
    if plan.for_lite_2_0 and plain is not None:
        logger.info("%s: Lite 2.0 reads no integers in a MindIR: the floats that they stand for", plan.lite_2_0.name)
        floats = {parameter.name: parameter for parameter in plain.get_parameters()}
        graph = to_version_1(_graph(plain, Sizes()))
        yield _Traced([plan.lite_2_0], LITE_2_0, _BOTH, Sizes(), graph, floats)
    elif plan.for_lite_2_0:
        yield _Traced([plan.lite_2_0], LITE_2_0, _BOTH, Sizes(), to_version_1(any_length))


def _graph(model: nn.Cell, sizes: Sizes) -> proto.ModelProto:
    network = PackedNetwork(model)
    return graph_file.trace(network, network.inputs(sizes))


def _write(
    traced: _Traced,
    inputs: list[Input],
    weights: dict[str, Parameter],
    shared: Path | None,
    places: dict[str, graph_file.Place],
) -> list[Graph]:
    """The graph under each of its names, which are one file on disk."""
    paths = [ExportPlan.graph(stem, inside=shared is None) for stem in traced.stems]
    graph_file.write_graph(paths[0], traced.graph, weights, shared=shared, places=places)
    for path in paths[1:]:
        _link(paths[0], path)
    found = {**describe(paths[0]), "mind_ir": traced.version, "roles": traced.roles, "inputs": inputs}
    if traced.version == LITE_2_0:
        found["exact"] = graph_file.matmuls_with_constants(traced.graph)
    return [Graph(**{**found, "name": path.name}) for path in paths]


def _link(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the disk knows no such thing."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)


def _inputs(model: nn.Cell, sizes: Sizes) -> list[Input]:
    """The inputs of the graph for the manifest."""
    config, kept = model.config, str(cache_dtype(model)).lower()
    tokens, slots, wanted = sizes
    cache = [config.num_layers, 1, config.num_kv_heads, slots, config.kv_channels]
    shapes = [[1, 1, 1, tokens]] * 3 + [[1, 1, 1, slots], [wanted], cache, cache]
    dtypes = ["int32"] * 5 + [kept] * 2
    return [Input(name=n, shape=s, dtype=d) for n, s, d in zip(INPUTS, shapes, dtypes, strict=True)]


def _is_shared(plan: ExportPlan, weights: dict[str, Parameter]) -> bool:
    if plan.shared_weights is not None:
        return plan.shared_weights
    return sum(weight.nbytes for weight in weights.values()) > INSIDE_BYTES


def _fixed(plan: ExportPlan, length: int) -> Fixed | None:
    return None if plan.dynamic else Fixed(tokens=length, rows=plan.rows, slots=length)


def _file(folder: Path, path: Path) -> File:
    return File(**{**describe(path), "name": path.relative_to(folder).as_posix()})


def _save_tokenizer(tokenizer: GLMTokenizer, folder: Path) -> Vocabulary:
    source = Path(tokenizer.vocab_file)
    there = folder / vocabulary_name(source)
    if there.is_file() and not there.samefile(source) and sha256(there) != sha256(source):
        raise CheckpointError(
            str(there), "the tokenizer of another export is in this folder", "Export to another folder"
        )
    if not there.is_file():
        tokenizer.save_pretrained(folder)
    return Vocabulary(**describe(there), type=type(tokenizer).__name__)


def _save_config(model: nn.Cell, plan: ExportPlan, tokenizer: GLMTokenizer | None) -> None:
    values = to_yaml(model.config)
    if tokenizer is not None:
        values["processor"] = {
            "tokenizer": {
                "type": type(tokenizer).__name__,
                "vocab_file": vocabulary_name(Path(tokenizer.vocab_file)),
            }
        }
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_text(plan.folder / f"{plan.name}.yaml", text)


def _summary(graphs: list[Graph]) -> str:
    return ", ".join(f"{graph.name} ({graph.bytes / 1e6:.1f} MB)" for graph in graphs)
