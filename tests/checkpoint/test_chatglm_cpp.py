"""Files of chatglm.cpp: a model by the name of one file, its floats and tokens, and headers that lie."""

import struct

import numpy as np
import pytest

from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.chatglm_cpp import open_chatglm_cpp
from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.formats.ggml_blocks import GGML_TYPES, dequantised
from mindformers_glm.checkpoint.load.model_files import model_files
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError

FILES = {"glm2_f16": "glm2", "glm2_q4_0": "glm2", "glm3_q8_0": "glm3"}
TABLE = "transformer.embedding.embedding_table"


@pytest.fixture
def quantised(shared):
    return shared / "golden/quantisation"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", FILES)
def test_weights_are_those_of_the_original_within_one_step(quantised, name):
    source = read_weights(quantised / f"chatglm_cpp/{name}.bin")
    floats = read_weights(quantised / "base" / FILES[name])
    assert set(source.names) == set(floats.names) and not source.unknown and source.format == "chatglm.cpp"
    for weight in source.names:
        got = convert_bits(source.read_bits(weight), source.dtype(weight), "float32")
        wanted = convert_bits(floats.read_bits(weight), floats.dtype(weight), "float32")
        assert got.shape == wanted.shape
        if name.endswith("f16") or wanted.ndim == 1:
            assert np.array_equal(got, wanted), weight
        else:
            blocks = np.abs(wanted.reshape(-1, 32)).max(axis=1, keepdims=True)
            step = blocks / (127 if name.endswith("q8_0") else 8)
            assert (np.abs(got - wanted).reshape(-1, 32) <= step * 1.01).all(), weight


@pytest.mark.parametrize("name", [*FILES, "glm2_tiny_q4_0"])
def test_the_logits_are_the_official_ones(quantised, name):
    from tiny_networks import logits_of  # noqa: PLC0415 - the other tests need no MindSpore

    from mindformers_glm import AutoModel  # noqa: PLC0415

    path = quantised / f"chatglm_cpp/{name}.bin"
    expected = np.load(path.with_suffix("").with_suffix(".expected.npz"))
    model = AutoModel.from_pretrained(path, compute_dtype="float32", param_init_type="float32")
    ids, wanted = expected["ids_1"].reshape(1, -1), expected["logits_1"]
    got = logits_of(model, ids).reshape(ids.size, -1)
    assert np.abs(got - wanted if wanted.ndim > 1 else got[-1] - wanted).max() < 2e-4
    if name.endswith(("f16", "tiny_q4_0")):
        tokens = model.generate(expected["ids_0"].astype(np.int32), do_sample=False, max_new_tokens=16)
        theirs = expected["cpp_greedy_0"]
        prompt = expected["ids_0"].size
        theirs = theirs[prompt:] if np.array_equal(theirs[:prompt], expected["ids_0"]) else theirs
        assert np.asarray(tokens).reshape(-1)[prompt:][: len(theirs)].tolist() == theirs.tolist()


def test_its_configuration_and_tokenizer_are_inside(quantised):
    from mindformers_glm.assembly.tokenizer import load_tokenizer  # noqa: PLC0415 - needs MindSpore

    path = quantised / "chatglm_cpp/glm2_tiny_q4_0.bin"
    files = model_files(path)
    assert (files.config.num_layers, files.config.num_kv_heads, files.config.layernorm_epsilon) == (4, 2, 1e-5)
    assert load_tokenizer(path).encode("你好") == load_tokenizer("glm2_tiny").encode("你好")


def test_a_conversion_is_streamed_by_rows(quantised, tmp_path):
    path = quantised / "chatglm_cpp/glm2_tiny_q4_0.bin"
    made = run_plan(plan_job(path, tmp_path / "out", "hf", dtype="fp32"))
    back, source = read_weights(made), read_weights(path)
    assert back.read_bits(TABLE).tobytes() == source.read_bits(TABLE).tobytes()
    rows = np.concatenate(list(source.blocks(TABLE, 3, 90, block_bytes=4096)))
    assert rows.tobytes() == source.read_bits(TABLE)[3:90].tobytes()
    assert (made / "tokenizer.model").is_file()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_hold_the_columns_in_ggml_s_order(name):
    kind = next(kind for kind in GGML_TYPES.values() if kind.name == name)
    block = bytearray(kind.size)
    block[:2] = np.float16(0.5).tobytes()
    offset = np.float32(3 if name.endswith("_1") else 0)
    if name.endswith("_1"):
        block[2:4] = np.float16(offset).tobytes()
    steps = np.arange(32) % (256 if name == "Q8_0" else 16)
    zero = {"Q4_0": 8, "Q5_0": 16}.get(name, 0)
    if name == "Q8_0":
        block[2:] = steps.astype(np.int8).tobytes()
    else:
        block[-16:] = (steps[:16] | steps[16:] << 4).astype(np.uint8).tobytes()
    if name.startswith("Q5"):  # the fifth bit of columns 1 and 31
        block[-20:-16] = struct.pack("<I", 1 << 1 | 1 << 31)
        steps = steps + 16 * np.isin(np.arange(32), (1, 31))
    got = dequantised(np.frombuffer(bytes(block), np.uint8)[None], kind)
    assert got.tolist() == [(0.5 * (steps - zero) + offset).tolist()]


def test_a_tokenizer_of_another_network_is_not_used(quantised, caplog):
    assert model_files(quantised / "chatglm_cpp/glm3_q8_0.bin").tokenizer is None
    assert "4073 ids" in caplog.text


def test_a_folder_of_one_file_is_that_model_and_of_two_is_refused(quantised, tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.ggml").symlink_to(quantised / "chatglm_cpp/glm2_f16.bin")
        if number == 1:
            assert len(read_weights(tmp_path).names) == 24 and model_files(tmp_path).config.num_layers == 3
    with pytest.raises(CheckpointError, match="2 models in one folder"):
        read_weights(tmp_path)


def old_file(quantised, **changes):
    """The f16 golden with the record of version 1."""
    content = (quantised / "chatglm_cpp/glm2_f16.bin").read_bytes()
    record = (1, 1024, 128, 4, 3, 256, 256, -1, 2, 0, -1, 2)
    length = struct.unpack_from("<i", content, 4 + 4 * 15)[0]
    head = content[:4] + struct.pack("<2i12i", 2, 1, *record) + content[64 : 68 + length]
    source = open_chatglm_cpp(quantised / "chatglm_cpp/glm2_f16.bin")
    for name, entry in source.entries.items():
        kind = {"float32": 0, "float16": 1}[entry.dtype]
        text = name.encode()
        head += struct.pack("<i", len(text)) + text
        head += struct.pack(f"<{len(entry.shape) + 2}i", len(entry.shape), *entry.shape, kind)
        head += bytes(-len(head) % 16) + source.read_bits(name).tobytes()
    return head


def test_files_of_version_1_are_read(quantised, tmp_path):
    (tmp_path / "old.bin").write_bytes(old_file(quantised))
    new = model_files(quantised / "chatglm_cpp/glm2_f16.bin").config
    assert model_files(tmp_path / "old.bin").config == new
    assert read_weights(tmp_path / "old.bin").names == read_weights(quantised / "chatglm_cpp/glm2_f16.bin").names


def patched(content, place, *values):
    return content[:place] + struct.pack(f"<{len(values)}i", *values) + content[place + 4 * len(values) :]


HOSTILE = {
    "another model": (lambda c: patched(c, 4, 1), "ChatGLM-6B"),
    "another version": (lambda c: patched(c, 8, 9), "version 9"),
    "no heads": (lambda c: patched(c, 24, 0), "0 heads"),
    "vocabulary past the end": (lambda c: patched(c, 64, 2**31 - 1), "vocabulary has"),
    "negative vocabulary": (lambda c: patched(c, 64, -5), "vocabulary has"),
    "cut in the last tensor": (lambda c: c[:-10], "outside the file"),
    "cut in the table": (lambda c: c[:30], "middle of its table"),
    "bytes at the end": (lambda c: c + b"\x01\x00\x00\x00a\xff\xff\xff\x7f", "axes"),
    "huge axes": (lambda c: c + struct.pack("<i1s4i", 1, b"a", 2, 2**31 - 1, 2**31 - 32, 2), "outside the file"),
    "unknown type": (lambda c: c + struct.pack("<i1s4i", 1, b"a", 2, 32, 32, 99), "number 99"),
    "odd columns": (lambda c: c + struct.pack("<i1s4i", 1, b"a", 2, 32, 33, 2), "multiple of 32"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_lie_are_refused_in_one_line(quantised, tmp_path, name):
    change, message = HOSTILE[name]
    path = tmp_path / "x.bin"
    path.write_bytes(change((quantised / "chatglm_cpp/glm2_f16.bin").read_bytes()))
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
