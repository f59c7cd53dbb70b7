"""Trains a tiny ChatGLM2 for some steps in a grid of processes and writes losses and whole weights. Run through msrun.

argv: folder, then any number of variants such as dp=2 or tp=2,lora,groups=1,steps=5 or dp=2,sharded. Processes that
a variant has no place for repeat the work of others, so that "dp=1" is the reference.
"""

from __future__ import annotations

import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindformers_glm import runtime
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.parallelize import (
    RankWeights,
    local_size,
    parallelize,
    partial_gradients,
    square_shares,
)
from mindformers_glm.models.glm.shards import Layout
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.optim.adam import AdamW
from mindformers_glm.parallel.gradients import GradientSum, SquareSum
from mindformers_glm.parallel.mesh import make_mesh
from mindformers_glm.parallel.optimizer import ShardedOptimizer

BATCH, TOKENS, VOCAB = 8, 12, 104


def tiny(options: dict[str, str]) -> ChatGLM2Config:
    adapter = {
        "pet_type": "lora",
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ".*dense.*|.*query.*",
    }
    return ChatGLM2Config(
        num_layers=2, hidden_size=32, num_attention_heads=4, multi_query_group_num=int(options.get("groups", 2)),
        kv_channels=8, ffn_hidden_size=48, padded_vocab_size=VOCAB, seq_length=TOKENS, param_init_type="float32",
        compute_dtype="float32", add_bias_linear="bias" in options, pet_config=adapter if "lora" in options else None,
    )  # fmt: skip


def weights_of(config: ChatGLM2Config) -> dict[str, np.ndarray]:
    rng, shapes = np.random.default_rng(1), dict(expected_shapes(config))
    if config.pet_config:
        for name, shape in list(shapes.items()):
            if name.endswith(
                ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
            ):
                base = name.removesuffix("weight")
                shapes[base + "mindpet_delta_lora_a"] = (4, shape[1])
                shapes[base + "mindpet_delta_lora_b"] = (shape[0], 4)
    values = {}
    for name, shape in shapes.items():
        noise = rng.normal(size=shape).astype(np.float32)
        values[name] = 1 + 0.1 * noise if "layernorm" in name else 0.3 * noise
    return values


class Step(nn.Cell):
    """Loss, gradients, clipping by the global norm, update."""

    def __init__(self, model, optimizer, total, squares):
        super().__init__(auto_prefix=False)
        self.model, self.optimizer, self.total, self.squares = model, optimizer, total, squares
        self.grad = ms.value_and_grad(self.model, None, optimizer.parameters)

    def construct(self, input_ids, labels):
        loss, grads = self.grad(input_ids, labels)
        grads = self.total(grads)
        norm = ops.sqrt(self.squares(grads))
        scale = ops.minimum(Tensor(1.0, ms.float32), 1.0 / norm)
        clipped = ()
        for grad in grads:
            clipped += (grad * scale,)
        return ops.depend(loss, self.optimizer(clipped)), norm


def train(folder: str, variant: str) -> None:
    options = dict((word + "=").split("=")[:2] for word in variant.split(","))
    dp, tp = int(options.get("dp", 1)), int(options.get("tp", 1))
    mesh = make_mesh(runtime.rank() % (dp * tp), dp=dp, tp=tp)
    config = tiny(options)
    model = ChatGLM2ForConditionalGeneration(local_size(config, mesh))
    parallelize(model, config, mesh)
    load_into(model, RankWeights(weights_of(config), Layout(config, tp), mesh.tensor.rank))
    step, states = make_step(model, config, mesh, sharded="sharded" in options)
    rng, losses, norms = np.random.default_rng(2), [], []
    for _ in range(int(options.get("steps", 20))):
        ids = rng.integers(0, VOCAB, (BATCH, TOKENS)).astype(np.int32)
        labels = np.where(rng.random((BATCH, TOKENS)) < 0.4, -100, np.roll(ids, -1, 1)).astype(np.int32)
        mine = slice(mesh.data.rank, None, dp)
        loss, norm = step(Tensor(ids[mine]), Tensor(labels[mine]))
        losses.append(float(loss.asnumpy()))
        norms.append(float(norm.asnumpy()))
    arrays = {p.name: p.asnumpy().copy() for p in [*model.get_parameters(), *states]}
    np.savez(f"{folder}/{variant}.rank{runtime.rank()}.npz", losses=losses, norms=norms, **arrays)


def make_step(model, config, mesh, *, sharded):
    def build(parameters):
        return AdamW(parameters, learning_rate=1e-2, weight_decay=0.1)

    trained = list(model.trainable_params())
    optimizer = ShardedOptimizer(build, trained, mesh.data) if sharded else build(trained)
    ordered = list(optimizer.parameters)
    total = GradientSum(ordered, mesh, partial=partial_gradients(ordered, config, mesh))
    step = Step(model, optimizer, total, SquareSum(square_shares(ordered, config, mesh), mesh))
    return step, [state for state in optimizer.get_parameters() if state.name.startswith(("adam_m.", "adam_v."))]


if __name__ == "__main__":
    runtime.set_up({"device_target": "CPU"}, seed=3, use_parallel=True)
    for given in sys.argv[2:]:
        train(sys.argv[1], given)
        print(f"rank {runtime.rank()}: {given} done", flush=True)
