"""Megatron folders: there and back bit for bit, rows where Megatron looks for them, pickles that torch would read."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile

import forked
import numpy as np
import pytest

from mindformers_glm.checkpoint.convert.megatron import FILE, MegatronWeights, group_rows, is_megatron, write_megatron
from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt
from mindformers_glm.checkpoint.formats.torch_write import write_torch
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

CONFIG = ChatGLM2Config(
    num_layers=4, hidden_size=16, num_attention_heads=4, multi_query_group_num=2, kv_channels=4, ffn_hidden_size=24,
    padded_vocab_size=32, seq_length=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    rng = np.random.default_rng(0)
    kinds = {name: np.float32 if "norm" in name else np.float16 for name in expected_shapes(CONFIG)}
    return {name: rng.normal(size=shape).astype(kinds[name]) for name, shape in expected_shapes(CONFIG).items()}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("pp", [1, 2, 4])
def test_there_and_back(tmp_path, whole, tp, pp):
    written = write_megatron(whole, CONFIG, tmp_path, tp=tp, pp=pp)
    assert len(written) == tp * pp and is_megatron(tmp_path) and is_megatron(tmp_path / "iter_0000001")
    last = f"mp_rank_{tp - 1:02d}" + (f"_{pp - 1:03d}" if pp > 1 else "")
    assert (tmp_path / "iter_0000001" / last / FILE).is_file()
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "1"
    for folder in (tmp_path, tmp_path / "iter_0000001"):
        back = MegatronWeights(folder, CONFIG)
        assert "prefix_encoder.weight" not in back
        for name, value in whole.items():
            assert back[name].dtype == value.dtype and back[name].tobytes() == value.tobytes(), name


class Storage:
    def __init__(self, kind, data):
        self.array = np.frombuffer(data, {"FloatStorage": np.float32, "HalfStorage": np.float16}[kind])


def load_like_torch(path):
    """What torch.load would build, with NumPy arrays for tensors, through Python's own unpickler."""
    archive = zipfile.ZipFile(path)

    class Loader(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return lambda storage, offset, size, stride, *_: storage.array[offset:].reshape(size)
            if (module, name) == ("collections", "OrderedDict"):
                return dict
            assert module == "torch"
            return name

        def persistent_load(self, reference):
            word, kind, key, device, count = reference
            storage = Storage(kind, archive.read(f"archive/data/{key}"))
            assert (word, device, len(storage.array)) == ("storage", "cpu", count)
            return storage

    return Loader(io.BytesIO(archive.read("archive/data.pkl"))).load()


def test_a_rank_holds_what_megatron_expects(tmp_path, whole):
    write_megatron(whole, CONFIG, tmp_path, tp=2, pp=2)
    state = load_like_torch(tmp_path / "iter_0000001/mp_rank_01_001" / FILE)
    assert state["iteration"] == 1 and state["checkpoint_version"] == 3.0
    model = state["model"]
    assert "embedding.word_embeddings.weight" not in model and model["output_layer.weight"].shape == (16, 16)
    layer = "transformer.encoder.layers.2."  # layer 0 of the second stage
    qkv = whole[layer + "self_attention.query_key_value.weight"]
    second_group = np.concatenate((qkv[8:16], qkv[20:24], qkv[28:32]))  # its two heads, its key, its value
    np.testing.assert_array_equal(model["decoder.layers.0.self_attention.linear_qkv.weight"], second_group)
    up = whole[layer + "mlp.dense_h_to_4h.weight"]
    np.testing.assert_array_equal(
        model["decoder.layers.0.mlp.linear_fc1.weight"], np.concatenate((up[12:24], up[36:48]))
    )
    down = whole[layer + "mlp.dense_4h_to_h.weight"]
    np.testing.assert_array_equal(model["decoder.layers.0.mlp.linear_fc2.weight"], down[:, 12:])
    assert group_rows(np.arange(32), CONFIG).tolist()[:16] == [*range(8), *range(16, 20), *range(24, 28)]


@pytest.mark.parametrize(("tp", "pp", "said"), [(4, 1, "multi_query_group_num"), (1, 3, "num_layers"), (3, 1, "--tp")])
def test_divisions_that_megatron_has_not(tmp_path, whole, tp, pp, said):
    with pytest.raises(CheckpointError, match=said):
        write_megatron(whole, CONFIG, tmp_path / "out", tp=tp, pp=pp)
    assert not (tmp_path / "out").exists()


def test_a_missing_rank_is_refused(tmp_path, whole):
    write_megatron(whole, CONFIG, tmp_path, tp=2, pp=2)
    (tmp_path / "iter_0000001/mp_rank_01_000" / FILE).unlink()
    with pytest.raises(CheckpointError, match="3 rank folders"):
        MegatronWeights(tmp_path, CONFIG)


def test_the_tool_converts_there_and_back(golden, root, tmp_path):
    base = golden / "mindformers_r08/model_fp16"
    (yaml,) = base.glob("*.yaml")

    def run(*arguments):
        command = [sys.executable, str(root / "tools/convert_weight.py"), *map(str, arguments), "--config", str(yaml)]
        done = forked.run(command)
        assert done.returncode == 0, done.stderr

    run(
        "--input_path",
        base / "tiny_fp16.ckpt",
        "--output_path",
        tmp_path / "mg",
        "--to",
        "megatron",
        "--tp",
        2,
        "--pp",
        2,
    )
    run("--input_path", tmp_path / "mg", "--output_path", tmp_path / "back.ckpt")
    before, after = open_ckpt(base / "tiny_fp16.ckpt"), open_ckpt(tmp_path / "back.ckpt")
    assert set(before.entries) == set(after.entries)
    for name in before.entries:
        assert before.read_bits(name).tobytes() == after.read_bits(name).tobytes(), name


SWITCHES = {
    "norms of 0414": {"post_self_attn_layernorm": True, "post_mlp_layernorm": True, "add_qkv_bias": False},
    "tied": {"tie_word_embeddings": True, "add_qkv_bias": False, "rotary_percent": 1.0, "multi_query_group_num": 4},
}


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (2, 2), (1, 4)])
def test_every_switch_of_the_family_there_and_back(tmp_path, switches, tp, pp):
    config = ChatGLM2Config(**{**CONFIG.model_dump(exclude_unset=True), **SWITCHES[switches]})
    rng = np.random.default_rng(1)
    whole = {name: rng.normal(size=shape).astype(np.float32) for name, shape in expected_shapes(config).items()}
    write_megatron(whole, config, tmp_path, tp=tp, pp=pp)
    back = MegatronWeights(tmp_path, config)
    assert set(back) == set(whole)
    for name, value in whole.items():
        assert back[name].tobytes() == value.tobytes(), name
    last = tmp_path / "iter_0000001" / (f"mp_rank_00_{pp - 1:03d}" if pp > 1 else "mp_rank_00")
    model = load_like_torch(last / FILE)["model"]
    table = whole["transformer.embedding.embedding_table"][: 32 // tp]
    if switches == "tied":  # the table is on the last stage too, as the output layer; one stage has it once
        assert ("output_layer.weight" in model) == (pp > 1)
        if pp > 1:
            np.testing.assert_array_equal(model["output_layer.weight"], table)
    else:
        assert {"decoder.layers.0.post_attn_norm.weight", "decoder.layers.0.post_mlp_layernorm.weight"} <= set(model)
        assert not [name for name in model if name.endswith("linear_qkv.bias")]


def test_megatron_cores_own_name_of_the_norm_behind_attention(tmp_path):
    config = ChatGLM2Config(**{**CONFIG.model_dump(exclude_unset=True), **SWITCHES["norms of 0414"]})
    whole = {name: np.full(shape, 2.0, np.float32) for name, shape in expected_shapes(config).items()}
    write_megatron(whole, config, tmp_path)
    file = tmp_path / "iter_0000001/mp_rank_00" / FILE
    model = load_like_torch(file)["model"]
    write_torch(file, {name.replace("post_attn_norm", "post_self_attn_layernorm"): model[name] for name in model})
    back = MegatronWeights(tmp_path, config)
    assert all(back[name].tobytes() == value.tobytes() for name, value in whole.items())
