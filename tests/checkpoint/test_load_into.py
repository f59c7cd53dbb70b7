"""Weights into a network."""

import mindspore as ms
import numpy as np
import pytest
from tiny_networks import logits_of, random_network, tiny_config

from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration

LORA = {"pet_type": "lora", "lora_rank": 3, "lora_alpha": 6, "lora_dropout": 0.0, "target_modules": "query_key_value$"}
QKV = "transformer.encoder.layers.0.self_attention.query_key_value"


def arrays_of(model) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in model.get_parameters()}


def network(**changes):
    return ChatGLM2ForConditionalGeneration(tiny_config(**changes))


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return arrays_of(random_network(seed=1))


def assert_holds(model, weights) -> None:
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


@pytest.mark.parametrize("form", ["arrays", "ckpt"])
def test_a_network_takes_its_weights(tmp_path, weights, form):
    save_ckpt(tmp_path / "x.ckpt", weights)
    model = network()
    report = load_into(model, weights if form == "arrays" else read_weights(tmp_path / "x.ckpt"))
    assert_holds(model, weights)
    assert set(report.loaded) == set(weights)
    assert report.missing == report.surplus == []


def test_what_was_read_is_the_parameter_and_what_was_given_is_copied(tmp_path, weights, monkeypatch):
    save_ckpt(tmp_path / "x.ckpt", weights)
    source, model, read = read_weights(tmp_path / "x.ckpt"), network(), {}
    read_bits = source.read_bits
    monkeypatch.setattr(source, "read_bits", lambda name: read.setdefault(name, read_bits(name)))
    load_into(model, source)
    places = {name: parameter.data_ptr() for name, parameter in model.parameters_dict().items()}
    assert places == {name: array.ctypes.data for name, array in read.items()}  # no second copy of a large matrix
    given = {name: array.copy() for name, array in weights.items()}
    load_into(model, given)
    for array in given.values():
        array[...] = 5
    assert_holds(model, weights)


def test_logits_of_the_golden_folder(golden):
    import json

    from mindformers_glm.models.glm.config import ChatGLM2Config

    folder = golden / "hf_glm2_tiny"
    config = ChatGLM2Config.from_hf(json.loads((folder / "config.json").read_text()))
    logits = []
    for path in (folder, folder / "bin"):
        model = ChatGLM2ForConditionalGeneration(config)
        load_into(model, read_weights(path))
        logits.append(logits_of(model, [[64790, 64792, 790, 30951]]))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.isfinite(logits[0]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_numbers_take_the_type_of_the_parameter(tmp_path, weights, dtype):
    from mindformers_glm.checkpoint.formats.dtypes import convert

    stored = {name: convert(array, dtype) for name, array in weights.items()}
    save_ckpt(tmp_path / "x.ckpt", stored)
    model = network(param_init_type="float16", embedding_type="float32")
    load_into(model, read_weights(tmp_path / "x.ckpt"))
    for name, parameter in model.parameters_dict().items():
        wide = stored[name].astype(np.float32)
        wanted = wide.astype(np.float16).astype(np.float32) if parameter.dtype == ms.float16 else wide
        np.testing.assert_array_equal(parameter.asnumpy().astype(np.float32), wanted, err_msg=name)


def test_missing_surplus_and_misshapen_are_all_listed_and_nothing_changes(weights):
    model = network()
    before = arrays_of(model)
    wrong = dict(weights)
    del wrong[QKV + ".bias"]
    wrong["transformer.encoder.final_layernorm.weight"] = np.ones(7, np.float32)
    wrong["transformer.encoder.layers.9.input_layernorm.weight"] = np.ones(32, np.float32)
    with pytest.raises(CheckpointError) as caught:
        load_into(model, wrong)
    text = str(caught.value)
    assert "1 of wrong shape: transformer.encoder.final_layernorm.weight is (7,), needs (32,)" in text
    assert f"1 missing: {QKV}.bias" in text
    assert "1 that the network does not have: transformer.encoder.layers.9.input_layernorm.weight" in text
    assert "\n" not in text
    assert_holds(model, before)


def test_a_partial_load_reports(weights):
    model = network()
    before = arrays_of(model)
    some = {QKV + ".bias": weights[QKV + ".bias"], "other": np.ones(1)}
    report = load_into(model, some, partial=True)
    assert (report.loaded, report.surplus) == ([QKV + ".bias"], ["other"])
    assert len(report.missing) == len(weights) - 1
    np.testing.assert_array_equal(arrays_of(model)[QKV + ".bias"], weights[QKV + ".bias"])
    before[QKV + ".bias"] = weights[QKV + ".bias"]
    assert_holds(model, before)
    with pytest.raises(CheckpointError, match="wrong shape"):
        load_into(model, {QKV + ".bias": np.ones(3, np.float32)}, partial=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(weights, value):
    wrong = {name: array.copy() for name, array in weights.items()}
    wrong[QKV + ".weight"][3, 4] = value
    with pytest.raises(CheckpointError, match=f"{QKV}.weight holds numbers that are not finite"):
        load_into(network(), wrong)


def test_numbers_too_large_for_the_parameter_are_refused(weights):
    wrong = {name: array.copy() for name, array in weights.items()}
    wrong[QKV + ".weight"][3, 4] = 1e6
    with pytest.raises(CheckpointError, match="does not fit into float16"):
        load_into(network(param_init_type="float16"), wrong)


def test_a_new_adapter_may_be_absent_only_when_it_is_to_be_trained(weights):
    model = network(pet_config=LORA)
    with pytest.raises(CheckpointError, match="no adapter for this network"):
        load_into(model, weights)
    report = load_into(model, weights, new_adapter=True)
    assert set(report.loaded) == set(weights)


def test_an_adapter_alone_must_be_complete(weights):
    model = network(pet_config=LORA)
    adapter = {name: a + 1 for name, a in arrays_of(model).items() if "mindpet_delta" in name}
    assert len(adapter) == 4
    report = load_into(model, adapter)
    assert set(report.loaded) == set(adapter)
    adapter.pop(QKV + ".mindpet_delta_lora_a")
    with pytest.raises(CheckpointError, match="1 missing"):
        load_into(model, adapter)


def test_an_adapter_into_a_network_without_one(weights):
    adapter = {QKV + ".mindpet_delta_lora_a": np.ones((3, 32), np.float32)}
    with pytest.raises(CheckpointError, match="set model_config.pet_config"):
        load_into(network(), {**weights, **adapter})


def test_a_file_without_weights():
    with pytest.raises(CheckpointError, match="missing"):
        load_into(network(), {})
