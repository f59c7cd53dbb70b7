"""Whole training runs of MindFormers r0.8 (golden/mindformers_r08/training) repeated from their start.

Their weights and activations are float16 without a loss scale. Networks that compute the same in float16 but round in
another place (graph and PyNative mode of one network among them) part by 1e-4 to 3e-4 in such a run; the losses, about
6, are compared to 1e-4 of their size.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.checkpoint.store.resume import read_train_state
from mindformers_glm.data.batch import Batch
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.optim import build_schedule, decay_groups
from mindformers_glm.registry import OPTIMIZERS
from mindformers_glm.train.callbacks import Callback
from mindformers_glm.train.fit import fit
from mindformers_glm.train.plan import make_plan
from mindformers_glm.train.state import RunState
from mindformers_glm.train.step import TrainStep
from mindformers_glm.train.wrapper import build_wrapper

# training_meta.json: run_glm2_6b_finetune.yaml with these changes
MODEL = {
    "num_layers": 2,
    "padded_vocab_size": 512,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "kv_channels": 8,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "seq_length": 48,
    "param_init_type": "float16",
    "compute_dtype": "float16",
}
LORA = {
    "pet_type": "lora",
    "lora_rank": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": ".*query_key_value*",
    "param_init_type": "float32",
    "compute_dtype": "float16",
}
SCHEDULE = {"type": "polynomial", "learning_rate": 0.005, "lr_end": 1e-4, "warmup_steps": 2, "total_steps": -1}
OPTIMIZER = {"type": "FP32StateAdamWeightDecay", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


class Arrays:
    """Batches of 8 rows of the golden data, in their order."""

    def __init__(self, path):
        data = np.load(path)
        self.ids, self.labels = data["input_ids"], data["labels"]

    def __len__(self):
        return len(self.ids) // 8

    def batches(self, epoch, start=0):
        for index in range(start, len(self)):
            rows = slice(8 * index, 8 * index + 8)
            yield Batch(self.ids[rows], self.labels[rows], np.arange(8 * index, 8 * index + 8) + 1)


class Seen(Callback):
    """Every loss, and the state after the first epoch."""

    def __init__(self):
        self.losses, self.after_epoch_1 = [], None

    def on_step_end(self, state):
        self.losses.append(state.result.loss)
        if state.done == 8:
            self.after_epoch_1 = state.capture().snapshot()


def prepare(folder, tmp_path, **changes):
    data = Arrays(folder / "train_small.npz")
    network = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**{**MODEL, **changes}))
    groups = decay_groups(network.trainable_params(), OPTIMIZER["weight_decay"])
    optimizer = OPTIMIZERS.build(OPTIMIZER, "optimizer", params=groups)
    settings = build_wrapper({"type": "TrainOneStepCell"})
    step = TrainStep(network, optimizer, loss_scale=settings.loss_scale, max_grad_norm=settings.max_grad_norm)
    plan = make_plan(batches=len(data), epochs=2)
    return data, RunState(step=step, plan=plan, batch_size=8, output_dir=tmp_path)


def run(data, state):
    seen, schedule = Seen(), build_schedule(SCHEDULE, total_steps=state.plan.total_steps)
    fit(state, data, schedule, [seen])
    return seen


@pytest.fixture
def folder(golden):
    return golden / "mindformers_r08/training"


def losses(folder, kind, name):
    return [row["loss"] for row in json.loads((folder / kind / "losses.json").read_text())[name]]


def test_losses_and_state_of_full_fine_tuning(folder, tmp_path):
    data, state = prepare(folder, tmp_path)
    load_into(state.network, read_weights(folder / "init.ckpt"))
    seen = run(data, state)
    np.testing.assert_allclose(seen.losses, losses(folder, "full", "straight"), rtol=1e-4)
    ours = seen.after_epoch_1
    path = folder / "full/output/checkpoint/rank_0/glm2-6b_rank_0-1_8.ckpt"
    theirs = read_train_state(path, steps_per_epoch=8)
    assert ours.weights.keys() == theirs.weights.keys()
    assert ours.optimizer.keys() == theirs.optimizer.keys()
    assert (ours.epoch, ours.step_in_epoch, ours.global_step) == (theirs.epoch, theirs.step_in_epoch, 8)
    for name, wanted in {**theirs.weights, **theirs.optimizer}.items():
        if "query_key_value.bias" in name:
            continue  # the bias of keys changes no output: its gradient is rounding and nothing else
        found, wanted = {**ours.weights, **ours.optimizer}[name].astype(np.float32), wanted.astype(np.float32)
        assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted), name


@pytest.mark.parametrize(
    ("kind", "name", "changes"), [("full", "glm2-6b", {}), ("lora", "glm2-6b-lora", {"pet_config": LORA})]
)
@pytest.mark.slow_where(lambda kind: kind == "full")
def test_losses_resumed_from_a_checkpoint_of_mindformers(folder, tmp_path, kind, name, changes):
    data, state = prepare(folder, tmp_path, **changes)
    path = folder / f"{kind}/output/checkpoint/rank_0/{name}_rank_0-1_8.ckpt"
    state.restore(read_train_state(path, steps_per_epoch=8), place=str(path))
    assert (state.done, state.updates, state.position()) == (8, 8, (1, 0))
    seen = run(data, state)
    np.testing.assert_allclose(seen.losses, losses(folder, kind, "resumed_from_epoch_1"), rtol=1e-4)
