"""W8A8 against ModelSlim's files: rules, ranges, files, division, and the network that runs on them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindformers_glm.checkpoint.formats.torch_npy import read_table, write_table
from mindformers_glm.cli.console import main
from mindformers_glm.config.names import ASSETS
from mindformers_glm.errors import CheckpointError
from mindformers_glm.quantization.sparse import compress, expand, read_compressed
from mindformers_glm.quantization.w8a8 import FILES, output, quantized, read_layers, write_divided

NAMES = ("glm2", "glm2_tiny")
EARLIER = (
    Path(__file__).parent / "earlier_glm2_tiny"
)  # the weights of version 0.1, of which the reference data were made


@pytest.fixture(scope="module")
def place(golden):
    return golden / "quantisation/w8a8"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The glm2_tiny of the reference data as a folder: its weights, and the vocabulary that has stayed."""
    folder = tmp_path_factory.mktemp("earlier")
    for file in (*EARLIER.iterdir(), ASSETS / "glm2_tiny/tokenizer.model"):
        shutil.copyfile(file, folder / file.name)
    return folder


def test_every_number_follows_the_rules(golden, place):
    layers, expected = read_layers(place / "glm2/old"), np.load(place / "glm2/expected.npz")
    weights = load_file(golden / "quantisation/base/glm2/model.safetensors")
    for name, layer in layers.items():
        low, high = float(expected[f"min|{name}"]), float(expected[f"max|{name}"])
        made = quantized(weights[f"{name}.weight"], weights.get(f"{name}.bias"), low, high)
        for field in FILES:
            assert np.array_equal(getattr(made, field), getattr(layer, field)), (name, field)


def test_outputs_of_single_layers_are_theirs(place):
    layers, expected = read_layers(place / "glm2/old"), np.load(place / "glm2/expected.npz")
    names = [key[2:] for key in expected.files if key.startswith("x|")]
    assert len(names) == 4
    for name in names:
        y = expected[f"y|{name}"]
        assert np.abs(output(expected[f"x|{name}"], layers[name]) - y).max() <= 1e-5 * np.abs(y).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_files_by_rank_are_theirs(place, name, tmp_path):
    for file in FILES:
        shutil.copyfile(place / name / "old" / f"{file}.npy", tmp_path / f"{file}.npy")
    config = json.loads((place / name / "old/config.json").read_text())
    shape = {"heads": config["num_attention_heads"], "groups": config["multi_query_group_num"]}
    made = write_divided(tmp_path, **shape, kv_channels=config["kv_channels"], size=2)
    theirs = sorted((place / name / "old/tp2").glob("*.npy"))
    assert len(theirs) == 6
    for file in theirs:
        for key, value in read_table(file).items():
            own = read_table(made / file.name)[key]
            assert own.dtype == value.dtype and np.array_equal(own, value), (file.name, key)
    with pytest.raises(CheckpointError, match="it is there already"):
        write_divided(tmp_path, **shape, kv_channels=config["kv_channels"], size=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_on_these_weights_says_their_tokens(golden, place, earlier, name):
    from mindformers_glm import AutoModel
    from mindformers_glm.generation import GenerationConfig
    from mindformers_glm.generation.generate import engine_of, generate
    from mindformers_glm.models.w8a8 import make_w8a8

    base = golden / "quantisation/base/glm2" if name == "glm2" else earlier
    network = AutoModel.from_pretrained(base, param_init_type="float32", compute_dtype="float32")
    make_w8a8(network, read_layers(place / name / "old"))
    expected = np.load(place / name / "expected.npz")
    ids = expected["ids_0"].tolist()
    sure = expected["greedy_margin_0"] >= 1e-3
    count = len(sure) if sure.all() else int(np.argmin(sure))
    engine = engine_of(network)
    found = generate(engine, [ids], GenerationConfig(do_sample=False, max_new_tokens=16))[0]
    assert count and list(found.ids)[:count] == expected["greedy_0"].tolist()[len(ids) :][:count]
    with pytest.raises(CheckpointError, match="no plain linear layer"):
        make_w8a8(network, read_layers(place / name / "old"))


@pytest.mark.slow_where(lambda name, way: name == "glm2_tiny" and way == "plain")
@pytest.mark.parametrize("way", ["kernels", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_theirs(golden, place, earlier, name, way):
    """No activation falls on the other side of half a step: theirs were summed in float64, some lie 3e-6 beside one."""
    from tiny_networks import logits_of

    from mindformers_glm import AutoModel
    from mindformers_glm.generation.kernel_network import KernelNetwork
    from mindformers_glm.models.w8a8 import make_w8a8
    from mindformers_glm.ops.kernels import library

    if library.library() is None:
        pytest.skip("the kernels are not built here")
    base = golden / "quantisation/base/glm2" if name == "glm2" else earlier
    model = AutoModel.from_pretrained(base, param_init_type="float32", compute_dtype="float32")
    make_w8a8(model, read_layers(place / name / "old"))
    expected = np.load(place / name / "expected.npz")
    for number in range(sum(key.startswith("ids_") for key in expected.files)):
        ids = expected[f"ids_{number}"][None].astype(np.int32)
        count = ids.shape[1]
        if way == "plain":
            found = logits_of(model, ids)[0]
        else:
            network = KernelNetwork(model)
            found = network.forward(ids, np.array([count], np.int32), network.new_cache(1), np.arange(count))
        np.testing.assert_allclose(found[-1], expected[f"logits_last_{number}"], atol=2e-3)
        np.testing.assert_allclose(found[:, ::64], expected[f"logits_cols_{number}"], atol=2e-3)


@pytest.mark.slow
def test_calibration_gives_their_ranges_and_files(place, earlier, tmp_path):
    """A process of its own: PyNative mode would stay with the tests that follow."""
    import subprocess
    import sys

    rows = place / "teacher_qualification.jsonl"
    words = ["--float_weight", str(earlier), "--data_path", str(rows), "--quant_weight", str(tmp_path / "q")]
    subprocess.run([sys.executable, "-m", "mindformers_glm", "export-quant-weight", *words], check=True, timeout=600)
    made, theirs = read_layers(tmp_path / "q"), read_layers(place / "glm2_tiny/old")
    assert list(made) == list(theirs)
    for name, layer in theirs.items():
        assert np.array_equal(made[name].quant_weight, layer.quant_weight)
        np.testing.assert_allclose(made[name].input_scale, layer.input_scale, rtol=1e-5)
        assert np.array_equal(made[name].input_offset, layer.input_offset)
        assert np.abs(made[name].quant_bias - layer.quant_bias).max() <= 1
    config = json.loads((tmp_path / "q/config.json").read_text())
    assert config["float_layers_id"] == [0] and config["world_size"] == 1


def test_sparse_weights_compress_and_come_back_exactly(tmp_path, capsys):
    weight = np.random.default_rng(0).normal(size=(64, 97)).astype(np.float32)
    weight[3, 5] = 30
    layer = quantized(weight, None, -1.0, 2.0, sparse=True)
    beyond = (layer.quant_weight < -8) | (layer.quant_weight > 7)
    assert 0 < beyond.mean() <= 0.011
    assert np.array_equal(expand(compress(layer.quant_weight)), layer.quant_weight)
    write_table(tmp_path / "quant_weight.npy", {"a.b": layer.quant_weight})
    assert main(["compress-weights", "--weight_path", str(tmp_path), "--save_path", str(tmp_path / "c")]) == 0
    assert "this project's form, not the vendor's" in capsys.readouterr().out
    assert np.array_equal(read_compressed(tmp_path / "c/compress_0.npz")["a.b"], layer.quant_weight)
    dense = quantized(weight, None, -1.0, 2.0).quant_weight
    with pytest.raises(CheckpointError, match="these weights are not sparse"):
        compress(dense)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


def test_hostile_files_are_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("evil.npy", np.array(Evil(), object), allow_pickle=True)
    np.save("plain.npy", np.zeros(3))
    write_table("good.npy", {"a": np.arange(6, dtype=np.int8).reshape(2, 3)})
    good = (tmp_path / "good.npy").read_bytes()
    for number, place in enumerate(range(130, len(good), 7)):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        (tmp_path / f"bad{number}.npy").write_bytes(damaged)
    (tmp_path / "short.npy").write_bytes(good[:200])
    (tmp_path / "empty.npy").write_bytes(b"")
    refused = 0
    for file in sorted(tmp_path.glob("*.npy")):
        try:
            table = read_table(file)
        except CheckpointError:
            refused += 1
            continue
        assert sum(value.nbytes for value in table.values()) < 1000
    assert refused > 20
    for name in ("evil.npy", "plain.npy", "short.npy", "empty.npy"):
        with pytest.raises(CheckpointError):
            read_table(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_parts_by_rank_join_to_the_whole(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ENABLE_QUANT", raising=False)
    shutil.copytree(golden / "quantisation/base/glm2", tmp_path / "m", copy_function=shutil.copyfile)
    assert main(["process-weights", "--model_path", str(tmp_path / "m"), "--tp_size", "2"]) == 0
    whole = load_file(tmp_path / "m/model.safetensors")
    parts = [load_file(tmp_path / f"m/tensor_parallel/part_model/{rank}/model.safetensors") for rank in range(2)]
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    assert np.array_equal(np.concatenate([part[name] for part in parts], 1), whole[name])
    name = "transformer.output_layer.weight"
    assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    assert json.loads((tmp_path / "m/tensor_parallel/part_model/1/config.json").read_text())["world_size"] == 2
    assert main(["process-weights", "--model_path", str(tmp_path / "m"), "--tp_size", "2"]) == 2
    assert "it is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it holds no row"),
        ("{", "it is no JSON"),
        ('{"a": 1}', "it has no text inputs_pretokenized"),
    ],
)
def test_rows_that_cannot_calibrate_are_named(tmp_path, text, told, capsys):
    (tmp_path / "rows.jsonl").write_text(text)
    words = ["--float_weight", "glm2_tiny", "--data_path", str(tmp_path / "rows.jsonl")]
    assert main(["export-quant-weight", *words, "--quant_weight", str(tmp_path / "q")]) == 2
    assert told in capsys.readouterr().err


def test_the_ascend_v1_form_holds_the_same_layers_and_is_a_model(place):
    from mindformers_glm import AutoModel
    from mindformers_glm.generation.generate import engine_of

    today, old = read_layers(place / "glm2/ascendv1"), read_layers(place / "glm2/old")
    assert set(today) == set(old)
    for name, layer in old.items():
        for field in ("quant_weight", "deq_scale", "input_scale", "input_offset", "quant_bias", "fp_bias"):
            assert np.array_equal(getattr(today[name], field), getattr(layer, field)), (name, field)
    network = AutoModel.from_pretrained(place / "glm2/ascendv1", param_init_type="float32", compute_dtype="float32")
    expected = np.load(place / "glm2/expected.npz")
    best = int(np.argmax(expected["float_logits_last_1"]))
    (score,) = engine_of(network).score(expected["ids_1"].tolist(), [[best]])
    assert score.is_greedy


def test_a_damaged_ascend_v1_folder_is_named(place, tmp_path):
    from safetensors.numpy import save_file

    tensors = load_file(place / "glm2/ascendv1/quant_model_weight_w8a8.safetensors")
    name = next(name for name in tensors if name.endswith(".input_scale"))
    for change in ({}, {name: np.ones(3, np.float32)}):
        kept = {key: value for key, value in tensors.items() if key != name} | change
        save_file(kept, tmp_path / "quant_model_weight_w8a8.safetensors")
        with pytest.raises(CheckpointError, match="W8A8 and has no input_scale|do not fit"):
            read_layers(tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("quant_bias", np.zeros(3, np.int32), "quant_bias of .* has 3 numbers for 4 rows"),
        ("quant_bias", np.zeros(4, np.int64), "quant_bias of .* is int64, not int32"),
        ("fp_bias", np.zeros(5, np.float32), "bias of .* has 5 numbers for 4 rows"),
    ],
)
def test_parts_that_a_kernel_would_read_beyond_are_refused(tmp_path, part, value, told):
    from safetensors.numpy import save_file

    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h"
    tensors = {
        "weight": np.zeros((4, 8), np.int8),
        "input_scale": np.ones(1, np.float32),
        "input_offset": np.zeros(1, np.float32),
        "quant_bias": np.zeros(4, np.int32),
        "deq_scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
    } | {part.replace("fp_bias", "bias"): value}
    save_file(
        {f"{name}.{key}": value for key, value in tensors.items()}, tmp_path / "quant_model_weight_w8a8.safetensors"
    )
    with pytest.raises(CheckpointError, match=told):
        read_layers(tmp_path)


def test_compressed_files_that_lie_are_refused_before_memory_is_taken(tmp_path):
    import io
    import zipfile

    def archive(name, *, shape=(4, 3), payload=b"\0" * 12, kind=zipfile.ZIP_STORED, dtype="|u1"):
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / name, "w", kind) as file:
            file.writestr("a|shape.npy", head.getvalue() + payload)
        return tmp_path / name

    (tmp_path / "text.npz").write_bytes(b"hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    lies = [
        archive("huge.npz", shape=(1 << 40, 1 << 20)),
        archive("bomb.npz", payload=b"\0" * (1 << 22), kind=zipfile.ZIP_DEFLATED),
        archive("object.npz", dtype="|O"),
        archive("short.npz", payload=b"\0" * 3),
        archive("alone.npz"),
        tmp_path / "text.npz",
        tmp_path / "empty.npz",
        tmp_path / "absent.npz",
    ]
    for file in lies:
        with pytest.raises(CheckpointError):
            read_compressed(file)
