"""MindIR files: a Cell traced once, and written with its weights inside or in one file that several graphs share."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from mindformers_glm.files import atomic_write
from mindformers_glm.mindspore_private import mind_ir_pb2 as proto
from mindformers_glm.ops.kernels.operators import formulas_only

VERSION = 3
_HEADER = b"\x01" + bytes(63)  # of a weight file: byte order, little endian
_ALIGNED = 64


class Place(NamedTuple):
    """Where a weight lies in the shared file."""

    offset: int
    length: int


def trace(cell: nn.Cell, inputs: Sequence[Tensor]) -> proto.ModelProto:
    """The graph of a Cell for these inputs, without its weights, of MindSpore's own operators alone.

    The Cell is compiled, nothing is kept on disk.
    """
    found = proto.ModelProto()

    def take(model: proto.ModelProto) -> None:
        found.CopyFrom(model)
        del model.graph.parameter[:]  # so that mindspore.export writes none

    with tempfile.TemporaryDirectory() as folder, formulas_only(cell):
        ms.export(cell, *inputs, file_name=f"{folder}/graph", file_format="MINDIR", custom_func=take)
    return found


def weight_name(parameter: proto.TensorProto) -> str:
    """Our name of a weight in a graph, which puts the function's name before it."""
    return parameter.name.rpartition(":")[2]


def matmuls_with_constants(graph: proto.ModelProto) -> list[str]:
    """Full names of matmuls with a constant that is no weight: these must not be quantised."""
    kinds = {f"REF::{primitive.name}": primitive.op_type for primitive in graph.primitives}
    constants = {node.output[0] for node in graph.graph.node if node.op_type == "Constant"}
    matmuls = [node for node in graph.graph.node if kinds.get(node.op_type) in ("MatMul", "BatchMatMul")]
    return [node.domain for node in matmuls if node.input[1] in constants]


def write_weights(path: Path, weights: Mapping[str, Parameter]) -> dict[str, Place]:
    """Writes one file with all weights, each on a boundary of 64 bytes; where each lies."""
    places = {}
    with atomic_write(path) as file:
        file.write(_HEADER)
        for name, weight in weights.items():
            data = weight.asnumpy()
            places[name] = Place(file.tell(), data.nbytes)
            file.write(data.reshape(-1).view("u1").data)
            file.write(bytes(-file.tell() % _ALIGNED))
    return places


def write_graph(
    path: Path,
    graph: proto.ModelProto,
    weights: Mapping[str, Parameter],
    *,
    shared: Path | None = None,
    places: Mapping[str, Place] | None = None,
) -> None:
    """Writes a graph with its weights inside, or pointing to `places` of the file `shared` beside or below it."""
    whole = proto.ModelProto()
    whole.CopyFrom(graph)
    for parameter in whole.graph.parameter:
        name = weight_name(parameter)
        if shared is None:
            parameter.raw_data = weights[name].asnumpy().tobytes()
        else:
            parameter.external_data.location = shared.relative_to(path.parent).as_posix()
            parameter.external_data.offset, parameter.external_data.length = (places or {})[name]
    with atomic_write(path) as file:
        file.write(whole.SerializeToString())
