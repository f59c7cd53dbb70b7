"""A real loss curve in `compute_dtype: bfloat16` beside float32's: the same start, the same batches, ADGEN."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm import runtime
from mindformers_glm.data import KeyWordGenDataset
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.ops.linear import multiplies
from mindformers_glm.optim.adam import AdamW
from mindformers_glm.tokenizers import ChatGLM2Tokenizer
from mindformers_glm.train.step import TrainStep

STEPS, GROUP, RATE = 300, 50, 2e-3


def network(compute_dtype):
    return ChatGLM2ForConditionalGeneration(
        ChatGLM2Config(
            num_layers=4, hidden_size=128, ffn_hidden_size=344, num_attention_heads=4, kv_channels=32,
            multi_query_group_num=2, padded_vocab_size=65024, seq_length=129, param_init_type="float32",
            layernorm_compute_type="float32", compute_dtype=compute_dtype,
        )
    )  # fmt: skip


def losses(model, batches):
    step = TrainStep(model, AdamW(list(model.trainable_params()), learning_rate=RATE), max_grad_norm=1.0)
    return [step([batch], RATE * min(1.0, (i + 1) / 30)).loss for i, batch in enumerate(batches)]


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(shared, glm2_vocab):
    """Means of 50 steps differ by less than 1 %, and the network has learned."""
    if not multiplies("bfloat16"):
        pytest.skip("this CPU has no product in bfloat16 that is worth having")
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=5)
    loader = {"type": "ADGenDataLoader", "dataset_dir": str(shared / "data/advertisegen/train_4000.json")}
    dataset = KeyWordGenDataset(
        data_loader=loader | {"phase": "train", "shuffle": False, "origin_columns": ["content", "summary"]},
        tokenizer=ChatGLM2Tokenizer(glm2_vocab),
        max_source_length=64,
        max_target_length=64,
        batch_size=8,
    )
    batches = [batch for batch, _ in zip(dataset.batches(0), range(STEPS), strict=False)]
    assert len(batches) == STEPS
    wide, narrow = network("float32"), network("bfloat16")
    start = {parameter.name: parameter.asnumpy().copy() for parameter in wide.get_parameters()}
    for parameter in narrow.get_parameters():
        parameter.set_data(Tensor(start[parameter.name]))
    curves = [np.array(losses(model, batches)).reshape(-1, GROUP).mean(1) for model in (wide, narrow)]
    print("float32 ", curves[0].round(4), "\nbfloat16", curves[1].round(4))
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.01)
    assert curves[0][-1] < curves[0][0] - 2
