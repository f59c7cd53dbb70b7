"""MindIR as MindSpore Lite 2.0 reads it: version 3 of the format, which MindSpore 2.10 writes, put back into version 1.

In version 3 the options of an operator (transpose_b, keep_dims, axis of a concat, ...) are inputs that hold constants,
and some operators have other names. Version 1 has options as attributes. Only the graph changes: weights are not
touched. Found by experiment with Lite 2.0.0 from PyPI; an operator without a rule here is refused.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from mindformers_glm.errors import CheckpointError
from mindformers_glm.mindspore_private import mind_ir_pb2 as proto

VERSION = 1
_Attribute = proto.AttributeProto
_INT32, _FLOAT32 = 6, 1  # TensorProto.DataType


class Rule(NamedTuple):
    """An operator in version 1: its name, how many inputs stay, and the attributes that the following ones become.

    `indices` is the input that must be an int32 tensor instead of a number or tuple: with dynamic shapes Lite 2.0
    cannot read the latter. `scalar` is the input that must be a tensor without dimensions. `fixed` are attributes that
    version 3 lacks.
    """

    name: str
    inputs: int
    options: tuple[str, ...] = ()
    indices: int | None = None
    scalar: int | None = None
    fixed: tuple[tuple[str, bool], ...] = ()


_SLICE_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
_TRANSPOSES = ("transpose_a", "transpose_b")
RULES = {
    "BatchMatMul": Rule("BatchMatMul", 2, _TRANSPOSES),
    "MatMul": Rule("MatMul", 2, _TRANSPOSES),
    "MatMulExt": Rule("BatchMatMul", 2, fixed=(("transpose_a", False), ("transpose_b", False))),
    "Concat": Rule("Concat", 1, ("axis",)),
    "ReduceMax": Rule("ReduceMax", 2, ("keep_dims",)),
    "ReduceMean": Rule("ReduceMean", 2, ("keep_dims",)),
    "ReduceSum": Rule("ReduceSum", 2, ("keep_dims", "skip_mode")),
    "StridedSlice": Rule("StridedSlice", 4, _SLICE_MASKS),
    "Gather": Rule("Gather", 3, ("batch_dims",), indices=2),
    "ExpandDims": Rule("ExpandDims", 2, indices=1),
    "Reshape": Rule("Reshape", 2, indices=1),
    "Transpose": Rule("Transpose", 2, indices=1),
    "Adds": Rule("Add", 2, scalar=1),
    "Muls": Rule("Mul", 2, scalar=1),
    "Subs": Rule("Sub", 2, scalar=1),
    "Div": Rule("RealDiv", 2),
}
_SAME = "Add Cast Exp Greater MakeTuple Maximum Mul NotEqual RealDiv Reciprocal Sigmoid Sqrt Square Sub TupleGetItem"
UNCHANGED = frozenset(_SAME.split())
_ORDER = frozenset({"Load", "Depend", "UpdateState"})


def to_version_1(graph: proto.ModelProto) -> proto.ModelProto:
    """A copy of a version 3 graph in version 1.

    Raises:
        CheckpointError: the graph holds an operator whose form in version 1 is not known.
    """
    return _Rewriter(graph).model


class _Rewriter:
    def __init__(self, source: proto.ModelProto) -> None:
        self.model = proto.ModelProto()
        self.model.CopyFrom(source)
        nodes = self.model.graph.node
        self._made = {node.output[0]: node for node in nodes}  # name of a value -> the node that makes it
        self._primitives = {primitive.name: primitive for primitive in self.model.primitives}
        self._renamed: dict[tuple, str] = {}
        self._constants: dict[str, proto.NodeProto] = {}
        self._drop_order()
        for node in self._kept:
            if node.op_type.startswith("REF::"):
                self._rewrite(node, self._kind(node))
            del node.node_attr[:]
        self._put_constants_first()
        self._mark()

    def _kind(self, node: proto.NodeProto) -> str:
        return self._primitives[node.op_type[5:]].op_type if node.op_type.startswith("REF::") else node.op_type

    def _drop_order(self) -> None:
        """Leaves out what orders reading and writing: this graph writes nothing."""
        graph = self.model.graph
        behind = {n.output[0]: n.input[0] for n in graph.node if self._kind(n) in ("Load", "Depend")}

        def source(name: str) -> str:
            while name in behind:
                name = behind[name]
            return name

        self._kept = [node for node in graph.node if self._kind(node) not in _ORDER]
        for node in self._kept:
            names = [source(name) for name in node.input]
            del node.input[:]
            node.input.extend(names)
        for output in graph.output:
            output.name = source(output.name)

    def _rewrite(self, node: proto.NodeProto, kind: str) -> None:
        rule = RULES.get(kind)
        if rule is None:
            if kind not in UNCHANGED:
                fix = "Export without the Lite 2.0 form, or add a rule to export/mindir_v1.py"
                raise CheckpointError("the graph", f"operator {kind} has no known form in MindIR version 1", fix)
            return
        attributes: dict[str, Any] = dict(rule.fixed)
        for option, value in zip(rule.options, node.input[rule.inputs :], strict=False):
            attributes[option] = self._value(value)
        if kind == "Concat":
            attributes["N"] = attributes["inputNums"] = len(self._made[node.input[0]].input)
        if rule.indices is not None:
            node.input[rule.indices] = self._indices(node.input[rule.indices])
        if rule.scalar is not None:
            node.input[rule.scalar] = self._scalar(node.input[rule.scalar])
        del node.input[rule.inputs :]
        node.op_type = "REF::" + self._primitive(rule.name, attributes)

    def _value(self, name: str) -> Any:
        """What a constant holds: a number, a truth value, or a tuple of whole numbers."""
        attribute = self._made[name].attribute[0]
        if attribute.type == _Attribute.TUPLE:
            return tuple(item.ints[0] if item.ints else item.i for item in attribute.values)
        if attribute.type == _Attribute.BOOL:
            return bool(attribute.i)
        if attribute.type == _Attribute.FLOAT:
            return attribute.f
        return attribute.d if attribute.type == _Attribute.DOUBLE else attribute.i

    def _indices(self, name: str) -> str:
        if self._made[name].op_type != "Constant":
            raise CheckpointError(
                "the graph", f"{name} is computed from a shape, which Lite 2.0 cannot read", "Report it"
            )
        value = self._value(name)
        numbers = value if isinstance(value, tuple) else (value,)
        dims = [len(numbers)] if isinstance(value, tuple) else []
        return self._constant(name + "_int32", _INT32, dims, struct.pack(f"<{len(numbers)}i", *numbers))

    def _scalar(self, name: str) -> str:
        return self._constant(name + "_tensor", _FLOAT32, [], struct.pack("<f", float(self._value(name))))

    def _constant(self, name: str, data_type: int, dims: list[int], raw: bytes) -> str:
        if name not in self._constants:
            node = self._constants[name] = proto.NodeProto(op_type="Constant", name=name, output=[name])
            holder = node.attribute.add(name="value", type=_Attribute.TENSORS)
            holder.tensors.add(name="value0", data_type=data_type, dims=dims, raw_data=raw)
        return name

    def _primitive(self, name: str, attributes: dict[str, Any]) -> str:
        key = (name, tuple(sorted(attributes.items())))
        if key not in self._renamed:
            made = self.model.primitives.add(name=f"{name}:version_1:{len(self._renamed)}", op_type=name)
            made.attribute.extend(_attribute(*item) for item in attributes.items())
            self._renamed[key] = made.name
        return self._renamed[key]

    def _put_constants_first(self) -> None:
        graph = self.model.graph
        nodes = [*self._constants.values(), *(proto.NodeProto.FromString(n.SerializeToString()) for n in self._kept)]
        del graph.node[:]
        graph.node.extend(nodes)

    def _mark(self) -> None:
        """The fields that tell a reader the version."""
        for primitive in self.model.primitives:
            primitive.ClearField("prim_type")
        self.model.mind_ir_version, self.model.ir_version, self.model.model_version = VERSION, "0.1.1", "2.0.0"


def _attribute(name: str, value: Any) -> proto.AttributeProto:
    if isinstance(value, tuple):
        items = [_Attribute(ints=[item], type=_Attribute.INT64) for item in value]
        return _Attribute(name=name, type=_Attribute.TUPLE, values=items)
    return _Attribute(name=name, i=int(value), type=_Attribute.BOOL if isinstance(value, bool) else _Attribute.INT64)
