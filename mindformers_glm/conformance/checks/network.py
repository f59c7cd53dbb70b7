"""One layer, and the whole network: the hidden states layer by layer, logits, a cache, packed rows, loss and gradients.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindformers_glm import runtime
from mindformers_glm.conformance import reference_network as ref
from mindformers_glm.conformance.check import KINDS, Answer, check
from mindformers_glm.conformance.device import array, tensor
from mindformers_glm.conformance.inputs import numbers, skip_on_cpu, whole
from mindformers_glm.labels import IGNORED
from mindformers_glm.models.glm.cached import HiddenStates
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.ops.kernels.operators import use_formulas

SIZE = ref.Size()
BATCH, TOKENS = 2, 6
_PARTS = ("linear", "rms_norm", "swiglu", "rotary.table", "rotary.scales", "rotary.turn", "attention")
_KERNELS = ("linear.kernel", "rms_norm.kernel", "swiglu.kernel", "attention.kernel")
_ASCEND = ("ascend.rms_norm", "ascend.swiglu", "ascend.flash")
_OFF = "GLM_KERNELS=off, then use_flash_attention: False; see which operator fails above"


def config(kind: str = "float32", **changes: Any) -> ChatGLM2Config:
    """The configuration of the reference's size."""
    return ChatGLM2Config(
        **{
            "num_layers": SIZE.layers,
            "hidden_size": SIZE.hidden,
            "num_attention_heads": SIZE.heads,
            "multi_query_group_num": SIZE.kv_heads,
            "kv_channels": SIZE.channels,
            "ffn_hidden_size": SIZE.ffn,
            "padded_vocab_size": SIZE.words,
            "seq_length": 16,
            "layernorm_epsilon": SIZE.eps,
            "param_init_type": "float32",
            "compute_dtype": kind,
            "use_flash_attention": True,
            **changes,
        }
    )


@cache
def weights() -> dict[str, np.ndarray]:
    """Those of the reference."""
    return ref.weights(SIZE)


def network(kind: str = "float32") -> ChatGLM2ForConditionalGeneration:
    """The network with the reference's weights, in eval mode."""
    model = ChatGLM2ForConditionalGeneration(config(kind))
    for name, parameter in model.parameters_dict().items():
        parameter.set_data(tensor(weights()[name]).astype(parameter.dtype))
    return model.set_train(False)


def ids() -> np.ndarray:
    """Token ids (B, T)."""
    return whole("network ids", BATCH, TOKENS, below=SIZE.words)


class _Layer(nn.Cell):
    """The first layer on rows that are given."""

    def __init__(self, model: ChatGLM2ForConditionalGeneration) -> None:
        super().__init__(auto_prefix=False)
        self.model, self.block = model.transformer, model.transformer.encoder.layers[0]
        self.positions = Tensor(np.arange(TOKENS, dtype=np.int32)[None])

    def construct(self, x: Tensor) -> Tensor:
        cos, sin, mask = self.model.turned(self.positions)
        return self.block(x, cos, sin, mask, BATCH)


def _layer_answer(model: ChatGLM2ForConditionalGeneration) -> Answer:
    x = numbers("stream", BATCH * TOKENS, SIZE.hidden)
    found = array(_Layer(model)(tensor(x)))
    wanted = ref.layer("transformer.encoder.layers.0.", x, weights(), SIZE, BATCH)
    return Answer({"value": found}, {"value": wanted})


@check(
    "layer",
    place="models/glm/layers.py: Block",
    switch_off=_OFF,
    needs=[*_PARTS, *_KERNELS, *_ASCEND],
    kinds=KINDS,
    slack=2,
)
def _layer(kind: str) -> Answer:
    skip_on_cpu(kind, runtime.device_target())
    return _layer_answer(network(kind))


@check("layer.formula", place="models/glm/layers.py: Block, formulas alone", needs=_PARTS, slack=2)
def _layer_formula(kind: str) -> Answer:
    model = network(kind)
    use_formulas(model)
    return _layer_answer(model)


@check(
    "network",
    place="models/glm/model.py: ChatGLM2ForConditionalGeneration.hidden_states",
    switch_off=_OFF,
    needs=["layer", "layer.formula", "embedding"],
    kinds=KINDS,
    slack=4,
)
def _network(kind: str) -> Answer:
    skip_on_cpu(kind, runtime.device_target())
    found = HiddenStates(network(kind))(tensor(ids()))
    wanted = ref.states(ids(), weights(), SIZE)
    names = ["embedding", *(f"layer {number}" for number in range(SIZE.layers))]
    return Answer(
        {name: array(state).reshape(-1, SIZE.hidden) for name, state in zip(names, found, strict=True)},
        dict(zip(names, wanted, strict=True)),
    )


@check(
    "network.logits",
    place="models/glm/model.py: ChatGLM2Model, final norm and output layer",
    switch_off=_OFF,
    needs=["network"],
    kinds=KINDS,
    slack=4,
)
def _logits(kind: str) -> Answer:
    skip_on_cpu(kind, runtime.device_target())
    found = array(network(kind)(tensor(ids()))).reshape(-1, SIZE.words)
    return Answer({"logits": found}, {"logits": ref.logits(ids(), weights(), SIZE)})


@check(
    "network.cache",
    place="models/glm/model.py: Cached (prefill, then one token after the cache)",
    needs=["network.logits", "attention.cache"],
    slack=4,
)
def _cached(kind: str) -> Answer:
    """Four tokens into an empty cache, then the fifth."""
    model, given = network(kind), ids()
    slots, known = 8, 4
    cache_shape = (SIZE.layers, BATCH, SIZE.kv_heads, slots, SIZE.channels)
    keys, values = np.zeros(cache_shape), np.zeros(cache_shape)
    wanted = ref.logits(given, weights(), SIZE).reshape(BATCH, TOKENS, -1)
    found, names = [], ("prefill", "next token")
    for begin, end in ((0, known), (known, known + 1)):
        places = np.tile(np.arange(begin, end, dtype=np.int32), (BATCH, 1))
        past = np.full(BATCH, begin, np.int32)
        logits, new_keys, new_values = model.forward_cached(
            tensor(given[:, begin:end]), tensor(places), tensor(past), tensor(keys), tensor(values)
        )
        keys[:, :, :, begin:end], values[:, :, :, begin:end] = array(new_keys), array(new_values)
        found.append(array(logits))
    parts = wanted[:, :known], wanted[:, known : known + 1]
    return Answer(dict(zip(names, found, strict=True)), dict(zip(names, parts, strict=True)))


@check(
    "network.packed",
    place="models/glm/model.py: ChatGLM2Model.unseen (packed rows)",
    needs=["network.logits"],
    slack=4,
)
def _packed(kind: str) -> Answer:
    """By the formulas: the operators for packed rows have checks of their own."""
    model, first = network(kind), np.array([[0, 0, 0, 3, 3, 3], [0, 1, 1, 1, 1, 5]], np.int32)
    use_formulas(model)
    found = array(model(tensor(np.stack((ids(), first), 1)))).reshape(-1, SIZE.words)
    return Answer({"logits": found}, {"logits": ref.logits(ids(), weights(), SIZE, first)})


def labels() -> np.ndarray:
    """Labels (B, T), two of them not learned."""
    found = whole("network labels", BATCH, TOKENS, below=SIZE.words)
    found[0, 1], found[1, 4] = IGNORED, IGNORED
    return found


@check(
    "gradients",
    place="models/glm/model.py: loss and gradients of ChatGLM2ForConditionalGeneration",
    switch_off=_OFF,
    needs=["network.logits", "cross_entropy", "cross_entropy.head", "cross_entropy.kernel"],
    kinds=KINDS,
    slack=10,
)
def _gradients(kind: str) -> Answer:
    """Every weight's gradient along a random direction."""
    skip_on_cpu(kind, runtime.device_target())
    model = network(kind).set_train(True)
    parameters = model.trainable_params()
    step = ms.value_and_grad(model, None, parameters)
    loss, grads = step(tensor(ids()), tensor(labels()))
    along = {p.name: numbers(p.name, *p.shape) for p in parameters}
    slopes = [float((array(g) * along[p.name]).sum()) for p, g in zip(parameters, grads, strict=True)]
    wanted = ref.slopes(ids(), labels(), weights(), SIZE, along)
    return Answer(
        {"loss": array(loss), "slopes": np.array(slopes)},
        {"loss": np.array(ref.loss(ids(), labels(), weights(), SIZE)), "slopes": np.array(list(wanted.values()))},
    )
