"""Trains with optimizers in two processes, saves in the middle and goes on in the same division and in another one.

argv: folder, then names of optimizers, or NAME:DIVISION:OTHER. Run by launched.py with two processes; rank R leaves
folder/R.json: optimizer ->
{"same": a resumed run ended bit for bit as the undisturbed one, "other": largest difference of a weight to one process
that was never stopped, in largest entries, after going on in another division}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.store import CheckpointStore
from mindformers_glm.checkpoint.store.resume import read_train_state
from mindformers_glm.data.batch import Batch
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.optim import decay_groups
from mindformers_glm.parallel.mesh import SINGLE, make_mesh
from mindformers_glm.registry import OPTIMIZERS
from mindformers_glm.train.pipeline_step import build_step
from mindformers_glm.train.plan import make_plan
from mindformers_glm.train.state import RunState

CONFIG = ChatGLM2Config(
    num_layers=2, hidden_size=16, num_attention_heads=4, multi_query_group_num=2, kv_channels=4, ffn_hidden_size=24,
    padded_vocab_size=32, seq_length=8, param_init_type="float32", compute_dtype="float32", add_qkv_bias=False,
)  # fmt: skip
BATCH, HALF, RATE = 4, 3, 0.01
# One unit in the last place of the initial weights moves the result of one process by 1e-7 to 3e-6 of the largest entry
# at RATE. FTRL makes new weights in proportion to the rate, so small ones at 0.01 that it is 2.9e-5 (at 0.5: 1.5e-6).
# Adam without bias correction begins with steps of three times the rate: 4.8e-5 (at 0.001: 1.7e-6). There a bound of
# 1e-5 would ask for more than float32 holds.
RATES = {"FTRL": 0.5, "FP32StateAdamWeightDecay": 0.001}
DIVISIONS = {  # sizes of the grid, level of ZeRO
    "one": ({}, 0),
    "tp": ({"tp": 2}, 0),
    "rows": ({"tp": 2}, 0),  # which tensor ranks divide between their layers
    "divided": ({"dp": 2}, 1),
    "gradients": ({"dp": 2}, 2),
    "weights": ({"dp": 2}, 3),
    "stages": ({"pp": 2}, 0),
    "sequence": ({"cp": 2}, 1),
}


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: ((1 if "norm" in name else 0) + 0.2 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in expected_shapes(CONFIG).items()
    }


class Run:
    """One run of one optimizer in one division; this process is one of its ranks."""

    def __init__(self, folder: Path, optimizer: str, division: str) -> None:
        sizes, level = DIVISIONS[division]
        self.rate = RATES.get(optimizer, RATE)
        self.mesh = make_mesh(runtime.rank(), **sizes)._replace(divides_rows=division == "rows") if sizes else SINGLE
        self.ranks = Ranks(self.mesh, CONFIG, level=level)
        self.network = self.ranks.network(training=True)
        load_into(self.network, self.ranks.local(weights(), self.network))

        def build(parameters) -> nn.Cell:
            return OPTIMIZERS.build({"type": optimizer}, "optimizer", params=decay_groups(parameters, 0.01))

        adam = self.ranks.optimizer(build, list(self.network.trainable_params()))
        self.state = RunState(
            step=build_step(
                self.network,
                adam,
                self.mesh,
                max_grad_norm=1.0,
                accumulation=2,
                reduction=self.ranks.reduction(adam),
            ),
            plan=make_plan(batches=2 * HALF),
            batch_size=BATCH // self.mesh.data.size,
            data_ranks=self.mesh.data.size,
            output_dir=folder,
            division=self.ranks.division.to_dict(),
            on_disk=self.ranks.on_disk(self.network),
        )

    def train(self) -> None:
        for step in range(self.state.done, self.state.done + HALF):
            rng = np.random.default_rng(step)
            ids = rng.integers(0, 32, (BATCH, 8)).astype(np.int32)
            dp = self.mesh.data.size
            mine = [slice(self.mesh.data.rank + turn * dp, None, 2 * dp) for turn in range(2)]
            labels, numbers = np.roll(ids, -1, 1), np.arange(BATCH)
            self.state.step([Batch(ids[rows], labels[rows], numbers[rows]) for rows in mine], self.rate)
            self.state.done, self.state.updates = step + 1, step + 1

    def save(self) -> Path:
        store = CheckpointStore(self.state.output_dir, rank=self.mesh.rank, rank_size=self.mesh.size)
        self.ranks.write_strategy(self.state.output_dir / "strategy", self.network, self.state.optimizer)
        path = store.save(self.state.capture())
        store.close()
        return path

    def resume(self, path: Path) -> None:
        self.state.restore(self.ranks.local_state(read_train_state(path), path, self.network), place=str(path))

    def arrays(self) -> dict[str, np.ndarray]:
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}


def compare(folder: Path, optimizer: str, first: str, second: str) -> dict[str, float | bool]:
    straight = Run(folder / "one", optimizer, "one")
    straight.train()
    straight.train()
    expected, found = straight.arrays(), {"same": True, "other": 0.0}
    place = folder / f"{optimizer}-{first}"
    undisturbed = Run(place, optimizer, first)
    undisturbed.train()
    path = undisturbed.save()
    undisturbed.train()
    again = Run(place, optimizer, first)
    again.resume(path)
    again.train()
    for name, value in undisturbed.arrays().items():
        found["same"] &= again.arrays()[name].tobytes() == value.tobytes()
    other = Run(place, optimizer, second)
    other.resume(path)
    other.train()
    local = other.ranks.local(expected, other.network)
    for name, value in other.arrays().items():
        difference = np.abs(value - local[name]).max() / np.abs(expected[name]).max()
        found["other"] = max(found["other"], float(difference))
    return found


if __name__ == "__main__":
    runtime.set_up({"device_target": "CPU"}, seed=3, use_parallel=True)
    results = {}
    for number, given in enumerate(sys.argv[2:]):
        name, *pair = given.split(":")
        pair = pair or (("tp", "divided") if number % 2 else ("divided", "tp"))
        results[given] = compare(Path(sys.argv[1]) / f"run-{number}", name, *pair)
        print(f"rank {runtime.rank()}: {given} {results[given]}", flush=True)
    Path(sys.argv[1], f"{runtime.rank()}.json").write_text(json.dumps(results))
