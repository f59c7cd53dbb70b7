"""What tests of conversions share: a tiny network, a conversion in one call, a comparison bit for bit."""

import numpy as np

from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

TINY = ChatGLM2Config(
    num_layers=2, hidden_size=16, num_attention_heads=4, multi_query_group_num=2, kv_channels=4, ffn_hidden_size=12,
    padded_vocab_size=50, seq_length=64, param_init_type="float32", compute_dtype="float32",
)  # fmt: skip


def job(source, out, form, **settings):
    return run_plan(plan_job(source, out, form, **settings))


def assert_same(left, right) -> None:
    left, right = read_weights(left), read_weights(right)
    assert set(left.names) == set(right.names)
    for name in left.names:
        assert left.dtype(name) == right.dtype(name), name
        assert left.shape(name) == right.shape(name), name
        assert left.read_bits(name).tobytes() == right.read_bits(name).tobytes(), name


def tiny_arrays(dtype=np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in expected_shapes(TINY).items()}
