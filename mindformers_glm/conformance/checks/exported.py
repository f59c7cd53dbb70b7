"""Exports: the graph on this device through MindSpore, and in MindSpore Lite.

Shapes: N tokens, S slots of the cache, V vocabulary.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.conformance import reference_network as ref
from mindformers_glm.conformance.check import Answer, Skipped, check
from mindformers_glm.conformance.checks.network import SIZE, ids, network, weights
from mindformers_glm.conformance.device import array, tensor
from mindformers_glm.errors import DeviceError
from mindformers_glm.export import graph_file
from mindformers_glm.export.lite.interpreter import find_python
from mindformers_glm.export.lite.process import Worker
from mindformers_glm.export.lite.settings import read_settings
from mindformers_glm.export.mindir_v1 import to_version_1
from mindformers_glm.export.network import INPUTS, PackedNetwork, Sizes

_SECONDS = 120.0


def _inputs() -> dict[str, np.ndarray]:
    """Both sequences in one row, the cache empty, logits of every token."""
    given = ids()
    batch, tokens = given.shape
    past = np.zeros((SIZE.layers, 1, SIZE.kv_heads, 1, SIZE.channels), np.float32)
    rows = (given.reshape(-1), np.tile(np.arange(tokens), batch), np.repeat(np.arange(batch), tokens))
    values: list[np.ndarray] = [row.astype(np.int32).reshape(1, 1, 1, -1) for row in rows]
    values += [np.full((1, 1, 1, 1), -1, np.int32), np.arange(given.size, dtype=np.int32), past, past]
    return dict(zip(INPUTS, values, strict=True))


def _graph(folder: Path, *, lite: bool) -> Path:
    model = network()
    cell, tokens = PackedNetwork(model), ids().size
    graph = graph_file.trace(cell, cell.inputs(Sizes() if lite else Sizes(tokens, 1, tokens)))
    path = folder / "network.mindir"
    graph_file.write_graph(path, to_version_1(graph) if lite else graph, {p.name: p for p in model.get_parameters()})
    return path


@check(
    "export.mindir",
    place="export/network.py: PackedNetwork as MindIR, loaded by MindSpore",
    switch_off="run_mode predict instead of the export",
    needs=["network.logits", "attention.cache"],
    slack=4,
)
def _mindir(kind: str) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        cell = nn.GraphCell(ms.load(str(_graph(Path(folder), lite=False))))
        found = array(cell(*(tensor(value) for value in _inputs().values()))[0])
    return Answer({"logits": found}, {"logits": ref.logits(ids(), weights(), SIZE)})


@check(
    "export.lite",
    place="export/lite: the same graph in MindSpore Lite",
    switch_off="MindSpore instead of Lite (backend of pipeline: mindspore)",
    needs=["export.mindir"],
    slack=4,
)
def _lite(kind: str) -> Answer:
    """On Ascend Lite may compute in float16; its errors then say so."""
    try:
        python = find_python()
    except DeviceError as error:
        raise Skipped(str(error)) from error
    settings = read_settings(target=runtime.device_target(), threads=1)
    worker = Worker(python, seconds=_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = _graph(Path(folder), lite=True)
            worker.load("network", str(path), settings._asdict())
            found = worker.run("network", _inputs())[0]
        finally:
            worker.close()
    wanted = ref.logits(ids(), weights(), SIZE)
    return Answer({"logits": np.asarray(found, np.float64).reshape(wanted.shape)}, {"logits": wanted})
