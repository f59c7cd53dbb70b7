"""rsLoRA and DoRA beside peft: one layer's output and gradients, and whole adapters in both directions."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

import mindspore as ms  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402
from tiny_networks import tiny_config  # noqa: E402

from mindformers_glm.adapters.config import LoraConfig  # noqa: E402
from mindformers_glm.adapters.lora import LoraLinear  # noqa: E402
from mindformers_glm.checkpoint.convert import run_plan  # noqa: E402
from mindformers_glm.checkpoint.convert.job import plan_job  # noqa: E402
from mindformers_glm.checkpoint.convert.merge import MergedSource  # noqa: E402
from mindformers_glm.checkpoint.load.peft import read_adapter_config  # noqa: E402
from mindformers_glm.checkpoint.load.source import read_weights  # noqa: E402
from mindformers_glm.models.glm.layers import Linear  # noqa: E402

pytestmark = pytest.mark.oracle
VARIANTS = [{"use_rslora": True}, {"use_dora": True}, {"use_rslora": True, "use_dora": True}]


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query = torch.nn.Linear(24, 40)

    def forward(self, x):
        return self.query(x)


class Against(nn.Cell):
    def __init__(self, layer, dy):
        super().__init__(auto_prefix=False)
        self.layer, self.dy = layer, Tensor(dy)

    def construct(self, x):
        return (self.layer(x) * self.dy).sum()


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_layer_equals_peft(variant):
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    given = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules=["query"], **variant)
    theirs = peft.get_peft_model(OneLayer(), given).base_model.model.query
    base = Linear(24, 40, bias=True, config=tiny_config())
    ours = LoraLinear(base, LoraConfig(lora_rank=4, lora_alpha=6, lora_dropout=0, **variant))
    pairs = [
        (theirs.base_layer.weight, ours.weight),
        (theirs.base_layer.bias, ours.bias),
        (theirs.lora_A["default"].weight, ours.mindpet_delta_lora_a),
        (theirs.lora_B["default"].weight, ours.mindpet_delta_lora_b),
    ]
    if ours.mindpet_delta_lora_m is not None:
        pairs.append((theirs.lora_magnitude_vector["default"].weight, ours.mindpet_delta_lora_m))
    for left, right in pairs:
        value = random.standard_normal(right.shape).astype(np.float32)
        left.data = torch.from_numpy(value.copy())
        right.set_data(Tensor(value))
    x, dy = (random.standard_normal((7, size)).astype(np.float32) for size in (24, 40))
    trained = [right for _, right in pairs[2:]]
    turned = torch.from_numpy(x).requires_grad_()
    out = theirs(turned)
    out.backward(torch.from_numpy(dy))
    grad = ms.value_and_grad(Against(ours, dy), 0, ms.ParameterTuple(trained))
    np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), out.detach().numpy(), rtol=1e-5, atol=1e-5)
    _, (dx, gradients) = grad(Tensor(x))
    np.testing.assert_allclose(dx.asnumpy(), turned.grad.numpy(), rtol=1e-4, atol=1e-5)
    for (left, _), gradient in zip(pairs[2:], gradients, strict=True):
        np.testing.assert_allclose(gradient.asnumpy(), left.grad.numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapters_go_to_peft_and_back(golden, tmp_path, variant):
    from test_checkpoint_oracle import official_modules  # noqa: PLC0415

    base = golden / "hf_glm2_tiny"
    given = peft.LoraConfig(r=8, lora_alpha=12, target_modules=["query_key_value", "dense_h_to_4h"], **variant)
    theirs = peft.get_peft_model(official_modules(base), given)
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    run_plan(plan_job(tmp_path / "theirs", tmp_path / "x.ckpt", "mindformers"))
    told = read_adapter_config(tmp_path / "theirs")
    ours = run_plan(plan_job(tmp_path / "theirs", tmp_path / "ours", "peft"))
    written = json.loads((ours / "adapter_config.json").read_text())
    assert {key: written[key] for key in variant} == variant
    merged = MergedSource(
        read_weights(base), read_weights(ours), plan_job(base, tmp_path / "y", "hf").config, told, dtype="float32"
    )
    (ours / "adapter_config.json").write_text(json.dumps({**written, "task_type": None}))
    for adapter in (tmp_path / "theirs", ours):
        whole = peft.PeftModel.from_pretrained(official_modules(base), adapter).merge_and_unload()
        state = dict(whole.named_parameters())
        assert len(merged.layers) > 2
        for layer in merged.layers:
            wanted = state[layer + ".weight"].detach().numpy()
            np.testing.assert_allclose(merged.read_bits(layer + ".weight"), wanted, rtol=1e-4, atol=1e-5)
