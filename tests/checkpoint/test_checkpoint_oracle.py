"""What we write, read by the real transformers, peft and torch; what torch writes, read by us."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import mindspore as ms  # noqa: E402

from mindformers_glm import AutoModel  # noqa: E402
from mindformers_glm.checkpoint.convert import run_plan  # noqa: E402
from mindformers_glm.checkpoint.convert.job import plan_job  # noqa: E402
from mindformers_glm.checkpoint.formats.torch_bin import open_torch_bin  # noqa: E402
from mindformers_glm.checkpoint.load.source import read_weights  # noqa: E402

pytestmark = pytest.mark.oracle
IDS = [[64790, 64792, 790, 30951, 517, 30910, 30939, 30996]]


def job(source, out, form, **settings):
    return run_plan(plan_job(source, out, form, **settings))


@pytest.mark.parametrize("kind", ["hf_glm2_tiny", "hf_glm3_tiny"])
@pytest.mark.parametrize("shard_size", ["2GB", "3MB"])
def test_transformers_loads_our_folder_and_agrees(golden, tmp_path, kind, shard_size):
    folder = job(golden / kind, tmp_path / "glm", "transformers", dtype="fp32", shard_size=shard_size)
    network, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(network).__name__ == "GlmForCausalLM"
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = network(torch.tensor(IDS)).logits.float().numpy()
    ours = AutoModel.from_pretrained(golden / kind, param_init_type="float32", compute_dtype="float32")
    got = ours(ms.Tensor(IDS, ms.int32)).asnumpy()
    np.testing.assert_allclose(got, theirs, rtol=1e-4, atol=1e-4)


def test_what_transformers_saves_comes_back(golden, tmp_path):
    folder = job(golden / "hf_glm2_tiny", tmp_path / "glm", "transformers")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    network.save_pretrained(tmp_path / "saved")
    job(tmp_path / "saved", tmp_path / "ours", "ours")
    left, right = read_weights(tmp_path / "ours"), read_weights(golden / "hf_glm2_tiny")
    assert set(left.names) == set(right.names)
    for name in right.names:
        assert left.read_bits(name).tobytes() == right.read_bits(name).tobytes(), name


def official_modules(folder) -> torch.nn.Module:
    """A module tree with the official names and weights, which is all that peft looks at."""
    source = read_weights(folder)
    root = torch.nn.Module()
    for name in sorted(source.names, key=lambda name: name.endswith(".bias")):
        parent, parts = root, name.split(".")
        for part in parts[:-2]:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        value = torch.from_numpy(source.read(name).astype(np.float32))
        if value.ndim == 2 and parts[-1] == "weight":
            linear = torch.nn.Linear(value.shape[1], value.shape[0], bias=name[:-6] + "bias" in source)
            linear.weight.data = value
            parent.add_module(parts[-2], linear)
        elif parts[-1] == "bias":
            getattr(parent, parts[-2]).bias.data = value
    root.config = {"model_type": "chatglm"}
    return root


@pytest.mark.parametrize("kind", ["hf_glm2_tiny", "hf_glm3_tiny"])
def test_peft_loads_our_adapter_and_merges_to_the_same(golden, tmp_path, kind):
    base, lora = golden / kind, golden / kind / "peft_lora"
    job(lora, tmp_path / "x.ckpt", "mindformers")
    adapter = job(tmp_path / "x.ckpt", tmp_path / "peft", "peft", lora_alpha=32)
    written = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**written, "task_type": None})
    )  # no generate() in the tree
    merged = peft.PeftModel.from_pretrained(official_modules(base), adapter).merge_and_unload()
    state = dict(merged.named_parameters())
    module = pytest.importorskip("mindformers_glm.checkpoint.convert.merge")
    source = module.MergedSource(
        read_weights(base),
        read_weights(adapter),
        plan_job(base, tmp_path / "y", "hf").config,
        {"lora_rank": 8, "lora_alpha": 32},
        dtype="float32",
    )
    for layer in source.layers:
        theirs = state[layer + ".weight"].detach().numpy()
        np.testing.assert_allclose(source.read_bits(layer + ".weight"), theirs, rtol=1e-5, atol=1e-5)


def test_torch_files_of_every_kind(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    table = {
        "float32": base,
        "half": base.half(),
        "brain": base.bfloat16(),
        "long": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "transposed": base.t(),
        "slice": base[2:4, 1::3],
        "parameter": torch.nn.Parameter(base * 2),
    }
    for legacy in (False, True):
        torch.save(table, tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
        file = open_torch_bin(tmp_path / "x.bin")
        assert list(file.entries) == list(table)
        for name, value in table.items():
            bits = file.read_bits(name)
            wanted = value.detach().contiguous()
            wanted = wanted.view(torch.int16).numpy().view(np.uint16) if name == "brain" else wanted.numpy()
            assert bits.shape == tuple(value.shape), name
            assert bits.tobytes() == wanted.tobytes(), name


def test_a_state_dict_with_metadata(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "x.bin")
    file = open_torch_bin(tmp_path / "x.bin")
    assert list(file.entries) == list(module.state_dict())
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(file.read_bits(name), value.numpy())


def test_torch_reads_the_golden_shards_as_we_do(golden):
    for path in sorted((golden / "hf_glm2_tiny/bin").glob("*.bin")):
        ours = open_torch_bin(path)
        for name, value in torch.load(path, weights_only=True).items():
            np.testing.assert_array_equal(ours.read_bits(name), value.numpy())
