"""Trains a tiny ChatGLM2 for some steps in a grid of processes and writes losses and whole weights. Run by launched.py.

argv: folder, then any number of variants such as dp=2 or tp=2,lora,groups=1,steps=5, dp=2,sharded or
pp=2,accumulate=4; `late` sums gradients after the backward pass. Buckets are small, so that there are several. The
words `edge` and `sandwich` give the network of GLM-Edge-1.5B and of GLM-4-32B-0414 with YaRN.
Variants of one process ("dp=1"), the references, are shared out: each is computed by one of the processes.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from mindformers_glm import runtime
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.data.batch import Batch
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.optim.adam import AdamW
from mindformers_glm.optim.groups import decay_groups
from mindformers_glm.parallel.gradients import Exchange
from mindformers_glm.parallel.mesh import Mesh, make_mesh
from mindformers_glm.train.pipeline_step import build_step

BATCH, TOKENS, VOCAB = 8, 12, 104
BUCKET_BYTES = 8192
# What one unit in the last place of the initial weights grows to in twenty steps of one process, at rates of 1e-2 and
# 1e-3: loss with adapters 3e-4 and 2e-7; weights with sandwich norms 4e-5 and 4e-6, of Edge 1.1e-5 and 1.0e-6; of the
# plain network 3.7e-6 and 2.2e-7. Only where this is well below 1e-5 can two divisions be compared to 1e-5.
SENSITIVE = {"lora", "dora", "edge", "sandwich"}
EDGE = {"rotary_percent": 1.0, "add_qkv_bias": False, "tie_word_embeddings": True}
SANDWICH = {
    "post_self_attn_layernorm": True,
    "post_mlp_layernorm": True,
    "add_qkv_bias": False,
    "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 4},
}


def tiny(options: dict[str, str]) -> ChatGLM2Config:
    adapter = {
        "pet_type": "lora",
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ".*dense.*|.*query.*",
        "use_dora": "dora" in options,
    }
    switches = {"tie_word_embeddings": "tied" in options}
    switches |= EDGE if "edge" in options else SANDWICH if "sandwich" in options else {}
    return ChatGLM2Config(
        num_layers=int(options.get("layers", 2)), **switches,
        hidden_size=32, num_attention_heads=4, multi_query_group_num=int(options.get("groups", 2)),
        kv_channels=8, ffn_hidden_size=48, padded_vocab_size=VOCAB, seq_length=TOKENS, param_init_type="float32",
        compute_dtype="float32", recompute_config={"recompute": "recompute" in options},
        add_bias_linear="bias" in options, pet_config=adapter if {"lora", "dora"} & set(options) else None,
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
                if config.pet_config["use_dora"]:
                    shapes[base + "mindpet_delta_lora_m"] = (shape[0],)
    values = {}
    for name, shape in shapes.items():
        noise = rng.normal(size=shape).astype(np.float32)
        values[name] = 1 + 0.1 * noise if "layernorm" in name or name.endswith("_m") else 0.3 * noise
    return values


def sizes_of(options: dict[str, str]) -> dict[str, int]:
    return {name: int(options.get(name, 1)) for name in ("dp", "tp", "pp", "cp")}


def mesh_of(options: dict[str, str], rank: int) -> Mesh:
    sizes = sizes_of(options)
    return make_mesh(rank % math.prod(sizes.values()), **sizes)._replace(divides_rows="rows" in options)


def options_of(variant: str) -> dict[str, str]:
    return dict((word + "=").split("=")[:2] for word in variant.split(","))


def mine(variants: list[str]) -> list[str]:
    """What this process takes part in."""
    alone = [variant for variant in variants if math.prod(sizes_of(options_of(variant)).values()) == 1]
    left = set(alone) - set(alone[runtime.rank() :: runtime.rank_size()])
    return [variant for variant in variants if variant not in left]


def train(folder: str, variant: str) -> None:
    options = options_of(variant)
    mesh, config = mesh_of(options, runtime.rank()), tiny(options)
    exchange = Exchange("late" not in options, bucket_bytes=BUCKET_BYTES)
    ranks = Ranks(mesh, config, "sharded" in options, int(options.get("zero", 0)), exchange)
    model = ranks.network(training=True)
    load_into(model, ranks.local(weights_of(config), model))
    turns = int(options.get("accumulate", 1))
    rate = 1e-3 if SENSITIVE & set(options) else 1e-2

    def build(parameters):
        return AdamW(decay_groups(parameters, 0.1), learning_rate=rate)

    optimizer = ranks.optimizer(build, list(model.trainable_params()))
    step = build_step(
        model,
        optimizer,
        mesh,
        scheduler=options.get("scheduler", "1f1b"),
        max_grad_norm=1.0,
        accumulation=turns,
        reduction=ranks.reduction(optimizer),
    )
    rng, losses, norms, dp = np.random.default_rng(2), [], [], mesh.data.size
    for _ in range(int(options.get("steps", 20))):
        ids = rng.integers(0, VOCAB, (BATCH, TOKENS)).astype(np.int32)
        labels = np.where(rng.random((BATCH, TOKENS)) < 0.4, -100, np.roll(ids, -1, 1)).astype(np.int32)
        mine = [slice(mesh.data.rank + turn, None, dp * turns) for turn in range(0, dp * turns, dp)]
        batches = [Batch(ids[rows], labels[rows], np.arange(BATCH)[rows]) for rows in mine]
        result = step(batches, rate)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    states = [state for state in optimizer.get_parameters() if state.name.startswith(("adam_m.", "adam_v."))]
    arrays = {p.name: p.asnumpy().copy() for p in [*model.get_parameters(), *states]}
    save(f"{folder}/{variant}", arrays, model, ranks)
    np.savez(f"{folder}/{variant}.rank{runtime.rank()}.npz", losses=losses, norms=norms, **arrays)


def save(folder, arrays, model, ranks):
    """The rank's files as a run writes them."""
    state, rank = ranks.state(model), ranks.mesh.rank
    written = {**state.on_disk(arrays, ranks.mesh), "global_step": np.array([3], np.int32)}
    if rank == runtime.rank():
        save_ckpt(f"{folder}/rank_{rank}/g_rank_{rank}-1_3.ckpt", written)
        state.write_strategy(f"{folder}/strategy", arrays, rank)


if __name__ == "__main__":
    runtime.wait_for_ever()  # for a process that computes a reference meanwhile
    runtime.set_up({"device_target": "CPU"}, seed=3, use_parallel=True)
    for given in mine(sys.argv[2:]):
        train(sys.argv[1], given)
        print(f"rank {runtime.rank()}: {given} done", flush=True)
