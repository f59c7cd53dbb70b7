"""GGUF files: a model by the name of one file, floats bit for bit, both engines' logits, and tables that lie."""

import struct

import numpy as np
import pytest

from mindformers_glm.checkpoint.convert.inspection import inspect_checkpoint
from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.formats.ggml_blocks import GGML_TYPES, dequantised, quantised
from mindformers_glm.checkpoint.load.model_files import model_files
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError, UserError

FILES = {"glm2_f16": "glm2", "glm2_q4_0": "glm2", "glm3_q8_0": "glm3", "kq_q4_k_m": "kq"}
QKV = "transformer.encoder.layers.0.self_attention.query_key_value"
LLAMA_BOUND = {"glm2_f16": 0.02}  # llama.cpp rounds activations to 8 bits for the others


@pytest.fixture
def golden(shared):
    return shared / "golden/quantisation/gguf"


@pytest.mark.parametrize("name", FILES)
def test_weights_are_those_of_the_original_within_one_step(golden, name):
    source, floats = read_weights(golden / f"{name}.gguf"), read_weights(golden.parent / "base" / FILES[name])
    assert set(source.names) == set(floats.names) and not source.unknown and source.format == "gguf"
    for weight in source.names:
        got = convert_bits(source.read_bits(weight), source.dtype(weight), "float32")
        wanted = convert_bits(floats.read_bits(weight), floats.dtype(weight), "float32")
        if name.endswith("f16") or wanted.ndim == 1:
            assert np.array_equal(got, wanted), weight
        else:
            assert np.abs(got - wanted).max() < 0.15 * np.abs(wanted).max(), weight


@pytest.mark.parametrize("name", [*FILES, "glm2_tiny_q4_0"])
def test_the_logits_are_the_official_ones_and_near_llama_cpp_s(golden, name):
    from tiny_networks import logits_of  # noqa: PLC0415 - the other tests need no MindSpore

    from mindformers_glm import AutoModel  # noqa: PLC0415

    path, expected = golden / f"{name}.gguf", np.load(golden / f"{name}.expected.npz")
    model = AutoModel.from_pretrained(path, compute_dtype="float32", param_init_type="float32")
    ids = expected["ids_0"].reshape(1, -1)
    got = logits_of(model, ids).reshape(ids.size, -1)
    for key, bound in (("logits_0", 2e-4), ("llama_logits_0", LLAMA_BOUND.get(name, 0.5))):
        wanted = expected[key]
        assert np.abs(got - wanted if wanted.ndim > 1 else got[-1] - wanted).max() < bound, key
    if name in ("glm2_f16", "glm2_tiny_q4_0"):
        tokens = np.asarray(model.generate(ids[0].astype(np.int32), do_sample=False, max_new_tokens=16)).reshape(-1)
        assert tokens.tolist() == expected["llama_greedy_0"][: tokens.size].tolist()
        assert tokens.size > ids.size


def test_k_quants_are_dequantised_bit_for_bit(golden):
    source, expected = read_weights(golden / "kq_q4_k_m.gguf"), np.load(golden / "kq_q4_k_m.expected.npz")
    wanted = [key for key in expected.files if key.startswith("deq|")]
    assert wanted and source.packing == "gguf Q4_K, Q6_K"
    assert "stored as     gguf Q4_K, Q6_K" in "\n".join(inspect_checkpoint(golden / "kq_q4_k_m.gguf").lines())
    assert read_weights(golden / "glm2_f16.gguf").packing == ""
    for key in wanted:
        assert source.read_bits(key[4:]).tobytes() == expected[key].tobytes(), key


def test_rounding_is_that_of_llama_cpp(golden):
    """The same floats make the same bytes: those of the golden files."""
    floats = read_weights(golden.parent / "base/glm2")
    for form, name in (("Q4_0", "glm2_q4_0"), ("Q8_0", "glm3_q8_0")):
        kind = next(kind for kind in GGML_TYPES.values() if kind.name == form)
        base = floats if name.startswith("glm2") else read_weights(golden.parent / "base/glm3")
        values = convert_bits(base.read_bits(QKV + ".weight"), base.dtype(QKV + ".weight"), "float32")
        ours = dequantised(quantised(values, kind), kind)
        assert ours.tobytes() == read_weights(golden / f"{name}.gguf").read_bits(QKV + ".weight").tobytes()


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_super_blocks_are_sums_of_scale_times_step(name):
    """Against the definition, one column at a time, as ggml-quants.c writes it down."""
    kind = next(kind for kind in GGML_TYPES.values() if kind.name == name)
    block = np.random.default_rng(1).integers(0, 256, kind.size, dtype=np.uint8)
    for place in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(name, (0, 2)):
        block[place : place + 2] = np.frombuffer(np.float16(0.125).tobytes(), np.uint8)
    got = dequantised(block[None], kind)[0]
    assert np.allclose(got, [reference(name, block.astype(int), column) for column in range(256)], atol=1e-4)


def reference(name, b, c):
    d = 0.125
    if name == "Q2_K":
        half, rest = divmod(c, 128)
        q = b[16 + 32 * half + rest % 32] >> 2 * (rest // 32) & 3
        scale = b[c // 16]
        return d * (scale & 15) * q - d * (scale >> 4)
    if name == "Q3_K":
        half, rest = divmod(c, 128)
        q = b[32 + 32 * half + rest % 32] >> 2 * (rest // 32) & 3
        high = b[c % 32] >> (c // 32) & 1
        j = c // 16
        scale = (b[96 + j % 8] >> 4 * (j // 8) & 15) | (b[104 + j % 4] >> 2 * (j // 4) & 3) << 4
        return d * (scale - 32) * (q - (0 if high else 4))
    if name == "Q6_K":
        half, rest = divmod(c, 128)
        low = b[64 * half + rest % 64] >> 4 * (rest // 64) & 15
        high = b[128 + 32 * half + rest % 32] >> 2 * (rest // 32) & 3
        scale = b[192 + c // 16]
        return d * (scale - 256 * (scale > 127)) * ((low | high << 4) - 32)
    j = c // 32
    scales = b[4:16]
    if j < 4:
        scale, least = scales[j] & 63, scales[j + 4] & 63
    else:
        scale = (scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4
        least = (scales[j + 4] >> 4) | (scales[j] >> 6) << 4
    q = b[(16 if name == "Q4_K" else 48) + 32 * (c // 64) + c % 32] >> 4 * (c // 32 % 2) & 15
    if name == "Q5_K":
        q |= (b[16 + c % 32] >> j & 1) << 4
    return d * scale * q - d * least


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def table(entries=(), tensors=(), *, version=3, counts=None, data=b""):
    """A GGUF file: entries (name, type, packed value), tensors (name, sizes, type, offset)."""
    counted = counts or (len(tensors), len(entries))
    content = b"GGUF" + struct.pack("<I2Q", version, *counted)
    content += b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in entries)
    for name, sizes, kind, offset in tensors:
        content += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return content + bytes(-len(content) % 32) + data


CHATGLM = [
    ("general.architecture", 8, text("chatglm")),
    *((f"chatglm.{name}", 4, struct.pack("<I", 32)) for name in ("embedding_length", "context_length")),
    ("chatglm.attention.head_count", 4, struct.pack("<I", 1)),
    *((f"chatglm.{name}", 4, struct.pack("<I", 1)) for name in ("block_count", "feed_forward_length")),
]
HUGE = 2**62
HOSTILE = {
    "version 1": (table(version=1), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">I2Q", 3, 0, 0), "version 50331648"),
    "counts": (table(counts=(HUGE, 1)), "announces"),
    "nothing": (b"GGUF\3\0\0\0", "bytes more than there are"),
    "a name without end": (table() + struct.pack("<Q", HUGE), "architecture None"),
    "a text without end": (table([("a", 8, struct.pack("<Q", HUGE))]), "a text of"),
    "a list without end": (table([("a", 9, struct.pack("<IQ", 4, HUGE))]), "a list of"),
    "a list past the end": (table([("a", 9, struct.pack("<IQ", 4, 1_000_000))]), "bytes more"),
    "a list of lists": (table([("a", 9, struct.pack("<IQ", 9, 1))]), "of type 9"),
    "an unknown type of value": (table([("a", 77, b"")]), "unknown type 77"),
    "another architecture": (table([("general.architecture", 8, text("llama"))]), "architecture 'llama'"),
    "a part": (table([*CHATGLM, ("split.count", 2, struct.pack("<H", 3))]), "one of 3 parts"),
    "an entry twice": (table([CHATGLM[0], CHATGLM[0]]), "twice"),
    "no sizes": (table(CHATGLM[:1]), "attention.head_count is None"),
    "no axes": (table(CHATGLM, [("a", (), 0, 0)]), "has 0 axes"),
    "many axes": (table(CHATGLM, [("a", (1,) * 9, 0, 0)]), "has 9 axes"),
    "another type of numbers": (table(CHATGLM, [("a", (256, 1), 16, 0)]), "IQ2_XXS"),
    "past the end": (table(CHATGLM, [("a", (32, 4), 0, 0)]), "outside the file"),
    "offset past the end": (table(CHATGLM, [("a", (32,), 0, 2**63)], data=bytes(128)), "outside the file"),
    "sizes whose product wraps": (table(CHATGLM, [("a", (2**33, 2**33), 0, 0)], data=bytes(128)), "outside the file"),
    "odd columns": (table(CHATGLM, [("a", (33, 2), 2, 0)], data=bytes(128)), "multiple of 32"),
    "a tensor twice": (table(CHATGLM, [("a", (8,), 0, 0)] * 2, data=bytes(128)), "twice"),
    "alignment": (table([*CHATGLM, ("general.alignment", 4, struct.pack("<I", 0))]), "alignment is 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_that_lie_are_refused_in_one_line(tmp_path, name):
    content, message = HOSTILE[name]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(tmp_path / "x.gguf")
    assert "\n" not in str(error.value)


def glm4_file():
    """A network of one layer of the architecture glm4: query F16, key F32, value Q8_0."""
    entries = [("general.architecture", 8, text("glm4"))]
    sizes = dict(embedding_length=32, context_length=64, block_count=1, feed_forward_length=32)
    sizes |= {"attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 8}
    entries += [(f"glm4.{name}", 4, struct.pack("<I", value)) for name, value in sizes.items()]
    made = np.random.default_rng(3)
    shapes = {
        "token_embd.weight": (64, 32),
        "output.weight": (64, 32),
        "output_norm.weight": (32,),
        **{f"blk.0.{name}.weight": (32,) for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")},
        **{f"blk.0.attn_{part}.weight": (rows, 32) for part, rows in (("q", 32), ("k", 16), ("v", 16))},
        **{f"blk.0.attn_{part}.bias": (rows,) for part, rows in (("q", 32), ("k", 16), ("v", 16))},
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_up.weight": (64, 32),
        "blk.0.ffn_down.weight": (32, 32),
    }
    arrays, tensors, data = {}, [], b""
    for name, shape in shapes.items():
        value = made.standard_normal(shape).astype(np.float32)
        kind = {"blk.0.attn_q.weight": 1, "blk.0.attn_v.weight": 8}.get(name, 0)
        stored = value.astype(np.float16) if kind == 1 else quantised(value, GGML_TYPES[8]) if kind == 8 else value
        arrays[name] = value.astype(np.float16).astype(np.float32) if kind == 1 else value
        if kind == 8:
            arrays[name] = dequantised(stored, GGML_TYPES[8])
        tensors.append((name, tuple(reversed(shape)), kind, len(data)))
        data += stored.tobytes() + bytes(-stored.nbytes % 32)
    return table(entries, tensors, data=data), arrays


def test_a_glm4_file_is_the_network_with_four_norms(tmp_path):
    content, arrays = glm4_file()
    (tmp_path / "x.gguf").write_bytes(content)
    config, source = model_files(tmp_path / "x.gguf").config, read_weights(tmp_path / "x.gguf")
    assert config.post_self_attn_layernorm and config.post_mlp_layernorm and config.add_qkv_bias
    assert (config.num_layers, config.kv_channels, config.num_kv_heads, config.rotary_percent) == (1, 16, 1, 0.5)
    from mindformers_glm.models.glm.weights import expected_shapes  # noqa: PLC0415

    assert {name: source.shape(name) for name in source.names} == expected_shapes(config)
    parts = [arrays[f"blk.0.attn_{part}.weight"] for part in "qkv"]
    assert source.dtype(QKV + ".weight") == "float32"
    assert np.array_equal(source.read_bits(QKV + ".weight"), np.concatenate(parts))
    rows = np.concatenate(list(source.blocks(QKV + ".weight", 30, 50))).reshape(-1, 32)
    assert np.array_equal(rows, np.concatenate(parts)[30:50])


def test_a_network_that_the_sizes_deny_is_refused_before_memory_is_taken(golden, tmp_path):
    from mindformers_glm import AutoModel  # noqa: PLC0415 - the other tests need none

    content = (golden / "glm2_f16.gguf").read_bytes()
    place = content.index(b"chatglm.block_count") + len("chatglm.block_count") + 4
    (tmp_path / "x.gguf").write_bytes(content[:place] + struct.pack("<I", 2**31 - 1) + content[place + 4 :])
    with pytest.raises(UserError, match="layers"):
        AutoModel.from_pretrained(tmp_path / "x.gguf")
