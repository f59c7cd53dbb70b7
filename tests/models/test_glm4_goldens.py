"""Every dense GLM-4 form against the official networks: logits, hidden states, loss, gradients, greedy, YaRN."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm import AutoModel
from mindformers_glm.checkpoint.load.names import LAYOUTS, meaning, targets

FORMS = ["chat_vocab", "chat_hf", "chat_hf/chatglm_form", "chat_1m", "edge_1_5b", "edge_4b"]
FORMS += ["glm4_9b_0414", "glm4_32b_0414", "chatglm3_128k", "codegeex2"]
TYPES = {"compute_dtype": "float32", "param_init_type": "float32"}


class Case:
    """A folder, its network in float32, and what the official network gave."""

    def __init__(self, golden, form, **changes):
        self.folder = golden / "glm4" / form
        told = self.folder if (self.folder / "expected.npz").is_file() else self.folder.parent
        self.meta = json.loads((told / "meta.json").read_text())
        self.expected = np.load(told / "expected.npz")
        self.model = AutoModel.from_pretrained(self.folder, seq_length=160, **TYPES, **changes)
        self.inputs = [case["input_ids"] for case in self.meta["cases"]]


@pytest.fixture(scope="module", params=FORMS)
def case(request, golden):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return Case(golden, request.param)


def run(model, ids):
    return model(Tensor([ids], ms.int32)).asnumpy()[0]


def close(got, expected, tolerance=1e-4):
    assert np.abs(got - expected).max() < tolerance * max(1.0, np.abs(expected).max() / 10)


def test_logits(case):
    for place, ids in enumerate(case.inputs):
        logits, step = run(case.model, ids), case.meta["logits_step"]
        close(logits[:, ::step], case.expected[f"logits_slice_{place}"])
        if f"logits_last_{place}" in case.expected:
            close(logits[-1], case.expected[f"logits_last_{place}"])
        shifted = logits[:-1] - logits[:-1].max(1, keepdims=True)
        nll = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(ids) - 1), ids[1:]]
        close(nll, case.expected[f"nll_{place}"])


def test_hidden_states(case):
    for place, ids in enumerate(case.inputs[:2]):
        states = case.model.hidden_states(Tensor([ids], ms.int32))
        for state, expected in zip(states, case.expected[f"hidden_{place}"], strict=True):
            close(state.asnumpy()[0], expected)
        final = case.model.transformer.encoder.norm(states[-1].reshape(len(ids), -1)).asnumpy()
        close(final, case.expected[f"final_{place}"])


def test_greedy_and_left_padding(case):
    longest = 2 if case.meta["shape"]["V"] > 10_000 else 4
    for place, ids in enumerate(case.inputs[:longest]):
        found = case.model.generate(ids, do_sample=False, max_new_tokens=48, eos_token_id=[])[0]
        assert found.tolist() == case.expected[f"greedy_{place}"].tolist()
    batch, mask = case.expected["batch_input_ids"], case.expected["batch_attention_mask"]
    rows = case.model.generate(batch, attention_mask=mask, do_sample=False, max_new_tokens=8, eos_token_id=[])
    for place, (row, ids) in enumerate(zip(rows, case.inputs, strict=True)):
        assert row.tolist()[-8:] == case.expected[f"greedy_{place}"][len(ids) : len(ids) + 8].tolist()


def test_stop_ids(case):
    stop = case.meta["stop_case"]
    ids = case.inputs[stop["case"]]
    found = case.model.generate(ids, do_sample=False, max_new_tokens=48, eos_token_id=stop["eos_token_id"])[0]
    assert found.tolist()[len(ids) :] == stop["new_tokens"]


def test_loss_and_gradients(case, golden):
    ids, labels = case.expected["train_ids"], case.expected["train_labels_unshifted"]
    shifted = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], 1)
    model = case.model.set_train(True)
    weights = ms.ParameterTuple(model.trainable_params())
    given = Tensor(ids, ms.int32), Tensor(shifted, ms.int32)
    loss, gradients = ms.value_and_grad(model, None, weights)(*given)
    model.set_train(False)
    assert abs(float(loss.asnumpy()) - float(case.expected["loss"])) < 1e-4
    by_name = {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, gradients, strict=True)}
    rows = {
        name.removeprefix("gradrows:"): case.expected[name]
        for name in case.expected.files
        if name.startswith("gradrows:")
    }
    compared = 0
    for name in case.expected.files:
        if not name.startswith(("grad:", "gradrows:")):
            continue
        stored = name.partition(":")[2]
        told = meaning(stored)
        if told.ours not in by_name:
            assert case.model.config.tie_word_embeddings
            continue
        whole, expected = by_name[told.ours], case.expected[name]
        if name.startswith("gradrows:"):
            whole = whole[case.expected["grad_rows"]]
        else:
            layout = LAYOUTS["native" if told.layout == "native" else "hf"]
            part = targets(told.ours, layout, case.model.config)[told.part]
            whole = whole[part.start : part.stop]
        close(whole, expected)
        compared += 1
    assert compared >= len(by_name) - len(rows)


def test_yarn(golden):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    folder = golden / "glm4/glm4_9b_0414"
    expected = np.load(folder / "yarn/expected.npz")
    scaling = json.loads((folder / "yarn/config.json").read_text())["rope_scaling"]
    case = Case(
        golden, "glm4_9b_0414", rope_scaling={"rope_type": "yarn", **{k: v for k, v in scaling.items() if k != "type"}}
    )
    yarn = case.model.config.rope_scaling.yarn
    assert yarn.size == pytest.approx(float(expected["attention_factor"]), abs=1e-7)
    ids = expected["input_ids"].reshape(-1).tolist()
    logits = run(case.model, ids)
    close(logits[::5, ::3], expected["logits_slice"])
    close(logits[-1], expected["logits_last"])
    close(run(case.model, case.inputs[2])[:, :: case.meta["logits_step"]], expected["short_logits"], 2e-4) if expected[
        "short_logits"
    ].shape[-1] != 640 else close(run(case.model, case.inputs[2]), expected["short_logits"])
    greedy = expected["greedy"].reshape(-1)
    found = AutoModel.from_pretrained(
        folder, seq_length=200, rope_scaling=case.model.config.rope_scaling.model_dump(), **TYPES
    )
    new = found.generate(ids, do_sample=False, max_new_tokens=24, eos_token_id=[])[0]
    assert new.tolist()[-24:] == greedy.tolist()[-24:]
