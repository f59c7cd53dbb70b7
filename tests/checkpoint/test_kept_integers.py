"""Packed files loaded with `quantization_bit`: their integers are kept where our kernels can hold them."""

import shutil

import numpy as np
import pytest

from mindformers_glm.checkpoint.load.source import open_file, read_weights
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.rounding import Rounding
from mindformers_glm.ops.quantized import Quantized, dequantize, exactly, quantize

FILES = {
    "official/glm2_int4": 4,
    "official/glm3_int8": 8,
    "chatglm_cpp/glm2_q4_0.bin": 4,
    "gguf/glm3_q8_0.gguf": 8,
    "gptq/glm2_g32": 4,
}
OFFICIAL = ["official/glm2_int4", "official/glm3_int8"]
QKV = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
DOWN = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"


@pytest.fixture
def golden(shared):
    return shared / "golden/quantisation"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("wider", [False, True])
def test_integers_are_those_of_the_file(golden, name, wider):
    bits = 8 if wider else FILES[name]
    source = read_weights(golden / name)
    weight, scales = source.read_bits(QKV), source.scales(QKV)
    assert scales.dtype == np.float16 and len(scales) == len(weight)
    found = exactly(weight, scales, bits=bits, group_size=32)
    assert np.array_equal(dequantize(found, bits=bits, columns=weight.shape[1]), weight)


class Layer(Rounding):
    """A layer that holds what it is given."""

    def __init__(self, shape: tuple[int, int], bits: int, group_size: int = 32) -> None:
        (self.out_channels, self.in_channels), self.bits, self.group_size = shape, bits, group_size

    def hold(self, found: Quantized) -> None:
        self.found = found


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("wider", [False, True])
@pytest.mark.parametrize("layer", [QKV, DOWN])
def test_official_integers_are_taken_without_a_float(golden, name, wider, layer):
    source, bits = read_weights(golden / name), 8 if wider else FILES[name]
    whole, rows = source.integers(layer), source.shape(layer)[0]
    np.testing.assert_array_equal(np.concatenate([whole(0, 7), whole(7, rows)]), whole(0, rows))
    taken = Layer(source.shape(layer), bits)
    assert taken.take_integers(whole, source.scales(layer), is_held_so=False) and taken.error == 0
    wanted = exactly(source.read_bits(layer), source.scales(layer), bits=bits, group_size=32)
    assert taken.found.weight.tobytes() == wanted.weight.tobytes()
    assert taken.found.scale.tobytes() == wanted.scale.tobytes()
    halves = source.halves(layer)
    assert (halves is not None) == (FILES[name] == 4)
    if halves is not None and not wider:
        again = Layer(source.shape(layer), bits)
        assert again.take_integers(halves, source.scales(layer), is_held_so=True)
        assert again.found.weight.tobytes() == wanted.weight.tobytes()
        np.testing.assert_array_equal(halves(5, 9), wanted.weight[5:9])


def test_integers_that_a_layer_cannot_hold_are_not_taken(golden):
    source = read_weights(golden / "official/glm3_int8")
    rows, scales, shape = source.integers(QKV), source.scales(QKV), source.shape(QKV)
    assert not Layer(shape, 4).take_integers(rows, scales, is_held_so=False)  # eight bits in four
    assert not Layer(shape, 8, group_size=96).take_integers(rows, scales, is_held_so=False)  # groups across scales
    assert not Layer(shape, 8).take_integers(rows, scales[:, :0], is_held_so=False)
    scales[3] = np.inf
    assert not Layer(shape, 8).take_integers(rows, scales, is_held_so=False)


def test_a_scale_that_is_no_number_is_refused(golden, tmp_path):
    from mindformers_glm.assembly.engine import load_held  # noqa: PLC0415

    folder = shutil.copytree(golden / "official/glm2_int4", tmp_path / "model", copy_function=shutil.copyfile)
    name = read_weights(folder).pieces(QKV)[0].name
    path = folder / "pytorch_model.bin"
    with path.open("r+b") as file:
        file.seek(open_file(path).entries[name + "_scale"].spans[0].offset)
        file.write(np.float16(np.nan).tobytes())
    with pytest.raises(CheckpointError, match="not finite"):
        load_held(str(folder), quantization_bit=4, quantization_group_size=32, compute_dtype="float32")


@pytest.mark.parametrize("name", ["gptq/glm2_g128_desc_act", "gguf/kq_q4_k_m.gguf", "gguf/glm2_f16.gguf", "base/glm2"])
def test_others_have_no_such_scales(golden, name):
    assert read_weights(golden / name).scales(DOWN) is None


def test_zeros_of_their_own_are_rounded_anew(golden):
    source = read_weights(golden / "gptq/glm2_g32_asym")
    assert exactly(source.read_bits(QKV), source.scales(QKV), bits=4, group_size=32) is None
    wide = read_weights(golden / "official/glm3_int8")
    assert exactly(wide.read_bits(QKV), wide.scales(QKV), bits=4, group_size=32) is None
    narrow = read_weights(golden / "gguf/glm3_q8_0.gguf")
    assert exactly(narrow.read_bits(QKV), narrow.scales(QKV), bits=8, group_size=64) is None


def test_the_embedding_takes_no_more_memory_than_in_the_file(golden):
    from tiny_networks import logits_of  # noqa: PLC0415

    from mindformers_glm import AutoModel  # noqa: PLC0415
    from mindformers_glm.assembly.engine import load_held  # noqa: PLC0415

    folder = golden / "official/glm2_int4"
    one, other = (
        AutoModel.from_pretrained(folder, quantization_scheme="official-int4", compute_dtype="float32", **given)
        for given in ({}, {"embedding_type": "float32"})
    )
    assert [str(model.parts.table.dtype) for model in (one, other)] == ["Float16", "Float32"]
    ids = np.load(folder / "expected.npz")["ids_0"][None]
    assert np.array_equal(logits_of(one, ids), logits_of(other, ids))
    held = load_held(str(folder), quantization_scheme="official-int4", compute_dtype="float32")
    assert held.weights().table.weight.dtype == "float16"
    plain = AutoModel.from_pretrained(golden / "base/glm2", compute_dtype="float32")
    assert str(plain.parts.table.dtype) == "Float32"


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_the_embedding_of_integers_has_the_type_of_its_file(tmp_path, kind):
    from tiny_networks import random_network  # noqa: PLC0415

    from mindformers_glm.assembly.engine import load_held  # noqa: PLC0415
    from mindformers_glm.assembly.network import load_network  # noqa: PLC0415
    from mindformers_glm.checkpoint.convert import save_directory  # noqa: PLC0415

    saved = random_network(scale=3.0, quantization_bit=8, quantization_group_size=16, embedding_type=kind)
    save_directory(tmp_path / "m", {p.name: p.asnumpy() for p in saved.get_parameters()}, saved.config)
    text = (tmp_path / "m/config.yaml").read_text(encoding="utf-8")
    plain = [line for line in text.splitlines(keepends=True) if "embedding_type" not in line]
    (tmp_path / "m/config.yaml").write_text("".join(plain), encoding="utf-8")
    assert load_held(str(tmp_path / "m")).weights().table.weight.dtype == kind
    told = str(load_network(str(tmp_path / "m")).parts.table.dtype).lower()
    assert told == ("float16" if kind == "float16" else "float32")  # no operator of a CPU looks bfloat16 up


def test_a_network_computes_with_them(golden):
    from tiny_networks import logits_of  # noqa: PLC0415 - the other tests need no MindSpore

    from mindformers_glm import AutoModel  # noqa: PLC0415
    from mindformers_glm.models.quantized import quantized_layers  # noqa: PLC0415

    folder, types = golden / "official/glm2_int4", {"compute_dtype": "float32", "param_init_type": "float32"}
    model = AutoModel.from_pretrained(folder, quantization_bit=4, quantization_group_size=32, **types)
    layers = quantized_layers(model)
    assert [name for name, layer in layers.items() if layer.error] == ["transformer.output_layer.weight"]
    expected = np.load(folder / "expected.npz")
    ids = expected["ids_1"].reshape(1, -1)
    got = logits_of(model, ids).reshape(ids.size, -1)
    again = read_weights(folder).read_bits(QKV)
    rounded = dequantize(quantize(again, bits=4, group_size=32), bits=4, columns=again.shape[1])
    assert np.abs(rounded - again).max() > 0  # what loading did before
    assert np.abs(got - expected["logits_1"]).max() < 0.2  # the output layer has 8 bits
