"""Prompt and two cached steps against vectors made with the official ChatGLM2, ChatGLM3 and GLM-4 code."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from tiny_networks import set_weights

from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.ops.rms_norm import RmsNorm

HIDDEN, SLOTS = 32, 8


class Reader:
    """Raw little-endian arrays, one after another."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0

    def take(self, shape, dtype=np.float32):
        count = int(np.prod(shape))
        value = np.frombuffer(self.data, dtype, count, self.at).reshape(shape)
        self.at += value.nbytes
        return value


@pytest.fixture
def vectors(shared):
    return shared / "data/test_vectors/chatglm_cpp"


def config(**changes):
    return ChatGLM2Config(
        num_layers=1, hidden_size=HIDDEN, num_attention_heads=8, multi_query_group_num=2, kv_channels=4,
        ffn_hidden_size=48, padded_vocab_size=5, seq_length=16, param_init_type="float32", compute_dtype="float32",
        **changes,
    )  # fmt: skip


def network(reader, settings):
    """The network whose logits are its last hidden state, because the output layer is the identity."""
    model = ChatGLM2ForConditionalGeneration(settings)
    model.transformer.output_layer = nn.Identity()
    order = [name for name in expected_shapes(settings) if "output_layer" not in name]
    set_weights(model, {name: reader.take(expected_shapes(settings)[name]) for name in order}, partial=True)
    return model.set_train(False)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("glm2_model", {}),
        ("glm3_model", {}),
        ("glm4_model", {"layernorm_epsilon": 1.5625e-07, "rope_ratio": 500}),
        ("glm3_ptuning_v2_model", {"pre_seq_len": 5}),
    ],
)
@pytest.mark.usefixtures("pynative")
def test_prompt_and_cached_steps(vectors, name, changes):
    reader = Reader(vectors / f"{name}.data")
    prefix = reader.take((2, 2, 5, 4), np.float16) if "pre_seq_len" in changes else None
    atol = 1e-5 if prefix is None else 2e-4  # the prefix was rounded to float16 after the official run
    model = network(reader, config(**changes))
    if prefix is not None:  # [k or v, group, position, channel] -> one row for each position
        table = prefix.astype(np.float32).transpose(2, 0, 1, 3).reshape(5, -1)
        set_weights(model, {"prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table": table}, partial=True)
    cache, past = [np.full((1, 1, 2, SLOTS, 4), 9.0, np.float32) for _ in range(2)], 0
    for tokens in (3, 1, 1):
        input_ids, expected = reader.take((1, tokens), np.int32), reader.take((tokens, HIDDEN))
        positions = np.arange(past, past + tokens, dtype=np.int32)[None]
        hidden, *new = model.forward_cached(
            Tensor(input_ids), Tensor(positions), Tensor([past], ms.int32), *(Tensor(c) for c in cache)
        )
        np.testing.assert_allclose(hidden.asnumpy()[0], expected, atol=atol, rtol=0)
        for store, rows in zip(cache, new, strict=True):
            store[..., past : past + tokens, :] = rows.asnumpy()
        past += tokens
    assert reader.at == len(reader.data)


def test_rms_norm(vectors):
    reader = Reader(vectors / "rms_norm.data")
    weight, x, expected = reader.take((64,)), reader.take((3, 64)), reader.take((3, 64))
    ours, _ = RmsNorm(1e-5)(Tensor(x), Tensor(weight))
    np.testing.assert_allclose(ours.asnumpy(), expected, atol=1e-6)
