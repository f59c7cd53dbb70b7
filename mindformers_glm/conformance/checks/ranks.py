"""What several processes do together: exchanges, the loss over a divided vocabulary, a network divided over ranks.

Each runs in two processes; the first one reports.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.conformance import reference
from mindformers_glm.conformance import reference_network as ref
from mindformers_glm.conformance.check import Answer, check
from mindformers_glm.conformance.checks.network import SIZE, config, ids, labels, weights
from mindformers_glm.conformance.device import array, tensor, value_and_gradients
from mindformers_glm.conformance.inputs import numbers
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.parallelize import RankWeights, local_size, parallelize
from mindformers_glm.models.glm.shards import TensorDivision
from mindformers_glm.parallel.collectives import (
    CopyToRanks,
    GatherFromRanks,
    ReduceFromRanks,
    broadcast_bytes,
    gather_bytes,
)
from mindformers_glm.parallel.layers import ParallelCrossEntropy
from mindformers_glm.parallel.mesh import SINGLE, Axis, make_mesh

RANKS = 2
_NO_RANKS = "one process: parallel_config.model_parallel: 1, data_parallel: 1"


def _axis() -> Axis:
    return Axis("tp", tuple(range(RANKS)), runtime.rank())


def _all(name: str, *shape: int, kind: str = "float32") -> list[np.ndarray]:
    return [numbers(f"{name} of rank {rank}", *shape, kind=kind) for rank in range(RANKS)]


class _Exchange(nn.Cell):
    """What comes out is multiplied by the same numbers on every rank."""

    def __init__(self, exchange: nn.Cell) -> None:
        super().__init__()
        self.exchange = exchange

    def construct(self, x: Tensor) -> Tensor:
        return self.exchange(x)


@check(
    "ranks.all_reduce",
    place="parallel/collectives.py: ReduceFromRanks, CopyToRanks (AllReduce)",
    switch_off=_NO_RANKS,
    kinds=("float32", "float16"),
    ranks=RANKS,
)
def _all_reduce(kind: str) -> Answer:
    parts, slopes = _all("reduced", 3, 4, kind=kind), _all("slope", 3, 4)
    own = tensor(parts[runtime.rank()], kind)
    total, into = value_and_gradients(ReduceFromRanks(_axis()), slopes[0], [own], 1)
    copied, back = value_and_gradients(CopyToRanks(_axis()), slopes[runtime.rank()], [own], 1)
    return Answer(
        {"sum": total, "its gradient": into[0], "copy": copied, "gradient of a copy": back[0]},
        {
            "sum": np.sum(parts, axis=0),
            "its gradient": slopes[0],
            "copy": parts[runtime.rank()],
            "gradient of a copy": np.sum(slopes, axis=0),
        },
    )


@check(
    "ranks.all_gather",
    place="parallel/collectives.py: GatherFromRanks (AllGather)",
    switch_off=_NO_RANKS,
    needs=["ranks.all_reduce"],
    ranks=RANKS,
)
def _all_gather(kind: str) -> Answer:
    parts = _all("gathered", 3, 4)
    found = array(_Exchange(GatherFromRanks(_axis()))(tensor(parts[runtime.rank()])))
    return Answer({"rows": found}, {"rows": np.concatenate(parts, -1)})


@check(
    "ranks.bytes",
    place="parallel/collectives.py: broadcast_bytes, gather_bytes",
    switch_off=_NO_RANKS,
    needs=["ranks.all_gather"],
    ranks=RANKS,
)
def _bytes(kind: str) -> Answer:
    text = "合规 check".encode() * 100
    sent = broadcast_bytes(_axis(), text if runtime.rank() == 0 else None)
    parts = gather_bytes(_axis(), b"x" * (runtime.rank() + 1))
    lengths = np.array([len(sent), *map(len, parts)], float)
    same = np.array([sent == text, *(part == b"x" * (i + 1) for i, part in enumerate(parts))], float)
    return Answer({"lengths": lengths, "same": same}, {"lengths": np.array([len(text), 1.0, 2.0]), "same": np.ones(3)})


@check(
    "ranks.loss",
    place="parallel/layers.py: ParallelCrossEntropy",
    switch_off=_NO_RANKS,
    needs=["ranks.all_reduce"],
    ranks=RANKS,
)
def _loss(kind: str) -> Answer:
    logits, known = numbers("all logits", 12, 10), labels().reshape(-1)
    known = np.where(known < 0, known, known % 10).astype(np.int32)
    own = np.split(logits, RANKS, 1)[runtime.rank()]
    cell = ParallelCrossEntropy(_axis(), SINGLE.data).set_train(True)
    found, grads = value_and_gradients(cell, np.ones(()), [tensor(own), tensor(known)], 1)
    wanted = reference.gradients(lambda x: reference.cross_entropy(x, known), np.ones(()), logits)[0]
    return Answer(
        {"loss": found, "gradient": grads[0]},
        {
            "loss": reference.cross_entropy(logits, known),
            "gradient": np.split(wanted, RANKS, 1)[runtime.rank()],
        },
    )


@check(
    "ranks.network",
    place="models/glm/parallelize.py: a network over 2 tensor ranks",
    switch_off=_NO_RANKS,
    needs=["ranks.all_reduce", "ranks.all_gather", "network.logits"],
    slack=4,
    ranks=RANKS,
)
def _divided(kind: str) -> Answer:
    mesh, whole = make_mesh(runtime.rank(), tp=RANKS), config(kind)
    model = parallelize(ChatGLM2ForConditionalGeneration(local_size(whole, mesh)), whole, mesh)
    parts = RankWeights(
        {name: value.astype(np.float32) for name, value in weights().items()},
        TensorDivision(whole, RANKS),
        mesh.tensor.rank,
    )
    for name, parameter in model.parameters_dict().items():
        parameter.set_data(tensor(parts[name]).astype(parameter.dtype))
    found = array(model.set_train(False)(tensor(ids()))).reshape(-1, SIZE.words)
    return Answer({"logits": found}, {"logits": ref.logits(ids(), weights(), SIZE)})


class _Barrier(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.reduce(x)


def meet() -> None:
    """Returns when every rank has come here: none may leave while another still sends."""
    _Barrier()(tensor(np.ones(1))).asnumpy()
