"""AutoModel.from_pretrained on every readable form of one network: the same logits, bit for bit."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from tiny_networks import logits_of

from mindformers_glm import AutoModel
from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.model_files import Storage
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

IDS = [[64790, 64792, 790, 30951, 517]]
FLOAT32 = {"param_init_type": "float32", "compute_dtype": "float32"}


def logits(model) -> np.ndarray:
    return logits_of(model, IDS)


@pytest.fixture(scope="module")
def wanted(golden):
    return logits(AutoModel.from_pretrained(golden / "hf_glm2_tiny", **FLOAT32))


@pytest.mark.parametrize(
    ("form", "storage"),
    [
        ("bin", None),
        ("ours", None),
        ("transformers", None),
        ("mindformers", None),
        ("mindformers-1.2", None),
        ("mindformers-1.5", None),
        ("mindformers-1.5", Storage(qkv_concat=False, mlp_concat=False, use_rearrange_rope=True)),
    ],
)
def test_every_form_gives_the_same_logits(golden, tmp_path, wanted, form, storage):
    source = golden / "hf_glm2_tiny"
    if form == "bin":
        place = source / "bin"
    else:
        place = tmp_path / ("m/x.ckpt" if form.startswith("mindformers") else "m")
        run_plan(plan_job(source, place, form, write_storage=storage))
    np.testing.assert_array_equal(logits(AutoModel.from_pretrained(place, **FLOAT32)), wanted)
    if place.suffix:
        np.testing.assert_array_equal(logits(AutoModel.from_pretrained(place.parent, **FLOAT32)), wanted)


def test_adapters_of_both_worlds_give_the_same_logits(golden, tmp_path, wanted):
    base, peft = golden / "hf_glm2_tiny", golden / "hf_glm2_tiny/peft_lora"
    first = logits(AutoModel.from_pretrained(base, adapter=peft, **FLOAT32))
    assert np.abs(first - wanted).max() > 0.1
    run_plan(plan_job(peft, tmp_path / "x.ckpt", "mindformers"))
    lora = {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 32, "target_modules": "query_key_value$"}
    second = AutoModel.from_pretrained(base, adapter=tmp_path / "x.ckpt", pet_config=lora, **FLOAT32)
    np.testing.assert_array_equal(logits(second), first)


class Skeleton(nn.Cell):
    """The parameters of a 6B network with LoRA on query_key_value: base weights in name only, adapters in full."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        rows = {name: (1,) for name in expected_shapes(ChatGLM2Config())}
        for name, shape in expected_shapes(ChatGLM2Config()).items():
            if name.endswith("query_key_value.weight"):
                stem = name.removesuffix("weight") + "mindpet_delta_lora_"
                rows |= {stem + "a": (rank, shape[1]), stem + "b": (shape[0], rank)}
        self.rows = ms.ParameterTuple([Parameter(Tensor(np.zeros(s, np.float32)), name=n) for n, s in rows.items()])


def test_the_real_adapter_fills_a_network_of_28_layers(shared):
    source = resolve(shared / "data/weights/chatglm3-qlora-advertisegen").read()
    skeleton = Skeleton(rank=4)
    report = load_into(skeleton, source)
    assert len(report.loaded) == 56
    assert report.missing == report.surplus == []
    for parameter in skeleton.rows:
        if "mindpet_delta" in parameter.name:
            np.testing.assert_array_equal(parameter.asnumpy(), source.read(parameter.name))
