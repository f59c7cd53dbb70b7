"""GGUF files that we write: tensors and metadata of files that llama.cpp ran, read back, and what is refused."""

import numpy as np
import pytest

from mindformers_glm.checkpoint.formats.dtypes import convert_bits
from mindformers_glm.checkpoint.formats.gguf import Reader
from mindformers_glm.checkpoint.load.model_files import model_files
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.convert import main
from mindformers_glm.errors import CheckpointError, ConfigError

QKV = "transformer.encoder.layers.0.self_attention.query_key_value.weight"


@pytest.fixture
def golden(shared):
    return shared / "golden/quantisation"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def converted(source, out, *arguments):
    main(["--input_path", str(source), "--output_path", str(out), "--to", "gguf", *arguments])
    return out


def entries(path):
    """The metadata of a file."""
    with open(path, "rb") as file:
        reader = Reader(file, path)
        file.seek(16)
        return reader.entries(reader.number("<u8"))


@pytest.mark.parametrize(
    ("base", "same", "dtype"),
    [("glm2", "glm2_f16", "fp16"), ("glm2", "glm2_q4_0", "q4_0"), ("glm3", "glm3_q8_0", "q8_0")],
)
def test_it_is_the_file_that_llama_cpp_ran(golden, tmp_path, base, same, dtype):
    made = converted(golden / "base" / base, tmp_path / "x.gguf", "--dtype", dtype)
    ours, theirs = read_weights(made), read_weights(golden / f"gguf/{same}.gguf")
    assert set(ours.names) == set(theirs.names)
    for name in theirs.names:
        if dtype == "q4_0" and "output_layer" in name:
            continue  # 8 bits here, 4 there
        assert ours.dtype(name) == theirs.dtype(name)
        assert ours.read_bits(name).tobytes() == theirs.read_bits(name).tobytes(), name
    written, wanted = entries(made), entries(golden / f"gguf/{same}.gguf")
    assert {key: value for key, value in written.items() if key != "general.name"} == {
        key: value for key, value in wanted.items() if key != "general.name"
    }


def test_our_model_goes_there_and_back_with_its_vocabulary(tmp_path):
    from mindformers_glm.assembly.tokenizer import load_tokenizer  # noqa: PLC0415 - needs MindSpore

    made = converted("glm2_tiny", tmp_path / "tiny.gguf")
    tokenizer, own = load_tokenizer(made), load_tokenizer("glm2_tiny")
    for text in ("你好，世界", " two  spaces\n\tand a tab", "x = {1: 'é'} 🙂", ""):
        assert tokenizer.encode(text) == own.encode(text), text
        assert tokenizer.decode(own.encode(text)) == own.decode(own.encode(text))
    told = entries(made)
    assert len(told["tokenizer.ggml.tokens"]) == 4096 and "[gMASK]" in told["tokenizer.ggml.tokens"]
    config = model_files(made).config
    assert (config.num_layers, config.hidden_size, config.eos_token_id) == (4, 192, own.eos_token_id)
    back = converted(made, tmp_path / "again.gguf")
    for name in read_weights(made).names:
        assert read_weights(back).read_bits(name).tobytes() == read_weights(made).read_bits(name).tobytes()


def test_a_network_with_four_norms_is_a_glm4_file(golden, tmp_path):
    from mindformers_glm.checkpoint.convert.arrays import ArraySource  # noqa: PLC0415
    from mindformers_glm.checkpoint.convert.gguf import plan_gguf, write_gguf  # noqa: PLC0415
    from mindformers_glm.models.glm.config import ChatGLM2Config  # noqa: PLC0415
    from mindformers_glm.models.glm.weights import expected_shapes  # noqa: PLC0415

    config = ChatGLM2Config(
        num_layers=2,
        padded_vocab_size=64,
        hidden_size=32,
        ffn_hidden_size=64,
        kv_channels=32,
        num_attention_heads=2,
        multi_query_group_num=1,
        seq_length=64,
        post_self_attn_layernorm=True,
        post_mlp_layernorm=True,
    )
    made = np.random.default_rng(0)
    arrays = {name: made.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(config).items()}
    path = write_gguf(plan_gguf(ArraySource(arrays), config, tmp_path / "x.gguf", dtype="f32"))
    found = model_files(path).config
    for key in ("num_layers", "kv_channels", "num_kv_heads", "post_self_attn_layernorm", "post_mlp_layernorm"):
        assert getattr(found, key) == getattr(config, key), key
    source = read_weights(path)
    assert set(source.names) == set(arrays)
    assert all(np.array_equal(source.read_bits(name), value) for name, value in arrays.items())


@pytest.mark.parametrize(("method", "ratio"), [("base", 50), ("linear", 16)])
def test_long_context_is_told_as_llama_cpp_computes_it(golden, tmp_path, method, ratio):
    from mindformers_glm.checkpoint.convert.gguf import plan_gguf, write_gguf  # noqa: PLC0415

    config = model_files(golden / "base/glm2").config.model_copy(update={"rope_ratio": ratio, "rope_method": method})
    path = write_gguf(plan_gguf(read_weights(golden / "base/glm2"), config, tmp_path / "x.gguf"))
    found, told = model_files(path).config, entries(path)
    assert (found.rope_ratio, found.rope_method) == (ratio, method)
    assert told["chatglm.rope.freq_base"] == (500000.0 if method == "base" else 10000.0)


def test_what_has_no_place_is_refused_and_nothing_is_left(golden, tmp_path):
    base, out = golden / "base/glm2", tmp_path / "x.gguf"
    with pytest.raises(ConfigError, match="q4_0"):
        converted(base, out, "--dtype", "q5_k")
    out.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="exists"):
        converted(base, out)
    assert out.read_bytes() == b"mine"
    converted(base, out, "--overwrite", "--dtype", "bf16")
    wanted = convert_bits(read_weights(base).read_bits(QKV), "float16", "bfloat16")
    assert read_weights(out).read_bits(QKV).tobytes() == wanted.tobytes()


def test_a_byte_level_vocabulary_inside_becomes_ranks(tmp_path):
    """As llama.cpp's converter writes GLM-4's: bytes spelled as characters, special tokens behind them."""
    import base64  # noqa: PLC0415

    from mindformers_glm.checkpoint.formats.gguf_vocabulary import byte_of_character, vocabulary_of  # noqa: PLC0415
    from mindformers_glm.tokenizers.chatglm4 import GLM4_SPECIALS, ChatGLM4Tokenizer  # noqa: PLC0415

    pieces = [*(bytes([byte]) for byte in range(256)), b" a", "你".encode()[:2], "你".encode()]
    spelled = {byte: character for character, byte in byte_of_character().items()}
    tokens = ["".join(spelled[byte] for byte in piece) for piece in pieces] + list(GLM4_SPECIALS)
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * len(pieces) + [3] * len(GLM4_SPECIALS), np.int32),
    }
    content = vocabulary_of(tmp_path / "x.gguf", values, {})()["tokenizer.model"]
    (tmp_path / "tokenizer.model").write_bytes(content)
    lines = content.splitlines()
    assert [base64.b64decode(line.split()[0]) for line in lines] == pieces
    tokenizer = ChatGLM4Tokenizer(str(tmp_path / "tokenizer.model"))
    ids = tokenizer.encode("你 a", add_special_tokens=False)
    assert tokenizer.decode(ids) == "你 a" and 256 in ids and tokenizer.get_command("<|user|>") == len(pieces) + 7
    with pytest.raises(CheckpointError, match="one type for each token"):
        vocabulary_of(tmp_path / "x.gguf", {**values, "tokenizer.ggml.token_type": [1]}, {})()
