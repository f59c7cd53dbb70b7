"""P-Tuning v2: what is trained, what it changes, what is refused. Its numbers: test_chatglm_cpp_vectors.py."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients, random_network

from mindformers_glm.errors import ConfigError

TABLE = "prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table"
TOKENS = np.array([[5, 17, 99, 3], [42, 8, 0, 1]], np.int32)


@pytest.mark.parametrize("changes", [{"pre_seq_len": 6}, {"pet_config": {"pet_type": "ptuning2", "pre_seq_len": 6}}])
@pytest.mark.slow_where(lambda mode, changes: mode == "graph" and "pre_seq_len" in changes)
def test_only_the_prefix_is_trained(changes, mode):
    model = random_network(**changes)
    assert [parameter.name for parameter in model.trainable_params()] == [TABLE]
    assert model.parameters_dict()[TABLE].shape == (6, 2 * 2 * 2 * 8)
    loss, gradients = loss_and_gradients(model, TOKENS, TOKENS)
    assert np.isfinite(loss) and gradients[TABLE].any(axis=1).all()


@pytest.mark.usefixtures("pynative")
def test_the_prefix_changes_every_token_and_no_position():
    model, plain = random_network(pre_seq_len=3), random_network()
    for name, value in plain.parameters_dict().items():
        model.parameters_dict()[name].set_data(Tensor(value.asnumpy()))
    ours, theirs = (network(Tensor(TOKENS)).asnumpy() for network in (model, plain))
    assert (np.abs(ours - theirs).max(-1) > 1e-3).all()
    last = model.hidden_states(Tensor(TOKENS))[-1]
    normed = model.transformer.encoder.norm(last.reshape(-1, 32))
    np.testing.assert_allclose(model.transformer.output_layer(normed).asnumpy().reshape(ours.shape), ours, atol=1e-4)
    table = model.parameters_dict()[TABLE]
    table.set_data(Tensor(np.full(table.shape, 0, np.float32)))  # keys of zero, values of zero: they only dilute
    assert np.isfinite(model(Tensor(TOKENS)).asnumpy()).all()


def test_a_row_of_a_batch_is_what_it_is_alone():
    model = random_network(pre_seq_len=3)
    both = model(Tensor(TOKENS)).asnumpy()
    ms.set_context(mode=ms.PYNATIVE_MODE)
    np.testing.assert_allclose(model(Tensor(TOKENS[1:])).asnumpy()[0], both[1], atol=1e-5)


def test_a_projected_prefix_is_refused():
    with pytest.raises(ConfigError, match=r"pet_config\.prefix_projection: got True.*not implemented"):
        random_network(pet_config={"pet_type": "ptuning2", "prefix_projection": True})
