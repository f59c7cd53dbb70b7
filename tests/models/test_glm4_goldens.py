"""Every dense GLM-4 form against the official networks: logits, hidden states, loss, gradients, greedy, YaRN."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_networks import loss_and_gradients

from mindformers_glm import AutoModel
from mindformers_glm.checkpoint.load.names import NAMINGS, meaning, targets
from mindformers_glm.generation import GenerationConfig, MindSporeEngine, generate

FORMS = ["chat_vocab", "chat_hf", "chat_hf/chatglm_form", "chat_1m", "edge_1_5b", "edge_4b"]
FORMS += ["glm4_9b_0414", "glm4_32b_0414", "chatglm3_128k", "codegeex2"]
pytestmark = pytest.mark.usefixtures("pynative")
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
    return Case(golden, request.param)


def run(model, ids):
    return model(Tensor([ids], ms.int32)).asnumpy()[0]


def test_the_training_kernel_is_used_where_heads_turn_whole(golden):
    """Not half of each head alone: GLM-Edge trains by the compiled attention as the others do."""
    for form in ("edge_1_5b", "glm4_9b_0414"):
        attention = Case(golden, form).model.transformer.encoder.layers[0].self_attention
        assert attention.may_be_whole and attention.whole.kernel_is_on


def close(got, expected, tolerance=1e-4):
    assert np.abs(got - expected).max() < tolerance * max(1.0, np.abs(expected).max() / 10)


def test_logits(case):
    assert_logits(case)


def assert_logits(case):
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
    for place, ids in enumerate(case.inputs):
        found = case.model.generate(ids, do_sample=False, max_new_tokens=48, eos_token_id=[])[0]
        assert found.tolist() == case.expected[f"greedy_{place}"].tolist()
    batch, mask = case.expected["batch_input_ids"], case.expected["batch_attention_mask"]
    rows = case.model.generate(batch, attention_mask=mask, do_sample=False, max_new_tokens=48, eos_token_id=[])
    for place, (row, ids) in enumerate(zip(rows, case.inputs, strict=True)):
        assert row.tolist()[-48:] == case.expected[f"greedy_{place}"][len(ids) :].tolist()


def test_stop_ids(case):
    stop = case.meta["stop_case"]
    ids = case.inputs[stop["case"]]
    found = case.model.generate(ids, do_sample=False, max_new_tokens=48, eos_token_id=stop["eos_token_id"])[0]
    assert found.tolist()[len(ids) :] == stop["new_tokens"]


def test_loss_and_gradients(case):
    assert_gradients(case)


ALL_SWITCHES = ("chat_hf", "edge_4b", "glm4_9b_0414", "chatglm3_128k")  # what others have, one of these has too


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow_where(lambda form: form not in ALL_SWITCHES)
def test_formulas(golden, form, monkeypatch):
    """Without compiled kernels the same logits, loss and gradients."""
    monkeypatch.setenv("GLM_KERNELS", "off")
    case = Case(golden, form)
    assert not [cell for _, cell in case.model.cells_and_names() if getattr(cell, "kernel_is_on", False)]
    assert_logits(case)
    assert_gradients(case)


@pytest.mark.parametrize("kernels", ["auto", pytest.param("off", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_prompts_in_pieces(golden, form, kernels, monkeypatch):
    """The cache filled by pieces of three and seven tokens, all rows at once: the same greedy tokens, and the same
    scores as the whole forward."""
    monkeypatch.setenv("GLM_KERNELS", kernels)
    case = Case(golden, form)
    new = 48 if kernels == "auto" else 12
    for chunk in (3, 7):
        engine = MindSporeEngine(case.model, chunk=chunk)
        found = generate(engine, case.inputs, GenerationConfig(max_new_tokens=new, eos_token_id=[]))
        for place, (one, ids) in enumerate(zip(found, case.inputs, strict=True)):
            assert one.ids == case.expected[f"greedy_{place}"][len(ids) : len(ids) + new].tolist()
        (score,) = engine.score(case.inputs[2][:1], [case.inputs[2][1:]])
        close(-np.asarray(score.logprobs), case.expected["nll_2"])


def assert_gradients(case):
    """Of every weight; where the table of token vectors is the output layer too, the sum of both uses."""
    ids, labels = case.expected["train_ids"], case.expected["train_labels_unshifted"]
    shifted = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], 1)
    loss, gradients = loss_and_gradients(case.model.set_train(True), ids, shifted)
    case.model.set_train(False)
    assert loss == pytest.approx(float(case.expected["loss"]), abs=1e-4)
    compared = set()
    for name in case.expected.files:
        kind, _, stored = name.partition(":")
        if kind not in ("grad", "gradrows"):
            continue
        told = meaning(stored)
        if told.ours not in gradients:
            assert case.model.config.tie_word_embeddings
            continue
        whole = gradients[told.ours]
        if kind == "gradrows":
            whole = whole[case.expected["grad_rows"]]
        else:
            naming = NAMINGS[
                "native" if case.model.config.add_qkv_bias is None or told.parts > 1 else told.naming or "hf"
            ]
            part = targets(told.ours, naming, case.model.config)[told.part]
            whole = whole[part.start : part.stop]
        close(whole, case.expected[name])
        compared.add(told.ours)
    assert compared == set(gradients)


def test_yarn(golden):
    folder = golden / "glm4/glm4_9b_0414"
    expected = np.load(folder / "yarn/expected.npz")
    scaling = json.loads((folder / "yarn/config.json").read_text())["rope_scaling"]
    scaling = {{"type": "rope_type"}.get(key, key): value for key, value in scaling.items()}
    model = AutoModel.from_pretrained(folder, seq_length=200, rope_scaling=scaling, **TYPES)
    yarn = model.config.rope_scaling.yarn
    assert yarn.size == pytest.approx(float(expected["attention_factor"]), abs=1e-6)
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(yarn.stretched(plain, base=10000.0, rotated=16), expected["inv_freq"], rtol=1e-6)
    ids = expected["input_ids"].reshape(-1).tolist()
    logits = run(model, ids)
    close(logits[::5, ::3], expected["logits_slice"])
    close(logits[-1], expected["logits_last"])
    new = model.generate(ids, do_sample=False, max_new_tokens=24, eos_token_id=[])[0].tolist()
    greedy = expected["greedy"].reshape(-1).tolist()
    assert new[len(ids) :] == greedy[-24:]


@pytest.mark.parametrize("form", ["glm4_9b_0414", "chat_hf", "chat_1m"])
def test_lora_of_peft(golden, form):
    """Query, key and value apart are one layer here; the adapter is joined, and its logits are peft's."""
    folder = golden / "glm4" / form
    expected, meta = np.load(folder / "expected.npz"), json.loads((folder / "meta.json").read_text())
    model = AutoModel.from_pretrained(folder, seq_length=160, adapter=folder / "peft_lora", **TYPES)
    ids = meta["cases"][meta["lora"]["case"]]["input_ids"]
    logits = run(model, ids)
    close(logits[:, :: meta["logits_step"]], expected["lora_logits_slice_2"])
    close(logits[-1], expected["lora_logits_last_2"])
    found = model.generate(ids, do_sample=False, max_new_tokens=24, eos_token_id=[])[0].tolist()
    assert found == expected["lora_greedy_2"].reshape(-1)[: len(ids) + 24].tolist()
