"""ChatGLM2Config: what MindFormers and the official config.json say, and messages for what does not fit."""

from __future__ import annotations

import json

import pytest
from tiny_networks import tiny_config

from mindformers_glm import AutoConfig
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.models.glm.config import ChatGLM2Config, RecomputeConfig
from mindformers_glm.models.glm.model import ChatGLM2Model
from mindformers_glm.registry import CONFIGS


def test_defaults_are_those_of_mindformers():
    config = ChatGLM2Config()
    assert (config.num_layers, config.padded_vocab_size, config.hidden_size) == (28, 65024, 4096)
    assert (config.ffn_hidden_size, config.kv_channels, config.num_attention_heads) == (13696, 128, 32)
    assert (config.seq_length, config.layernorm_epsilon, config.multi_query_group_num) == (2048, 1e-5, 2)
    assert (config.param_init_type, config.compute_dtype, config.layernorm_compute_type) == (
        "float16", "float16", "float32")  # fmt: skip
    assert (config.eos_token_id, config.pad_token_id, config.rope_ratio) == (2, 0, 1)


def test_every_model_section_of_mindformers_files_is_accepted(golden):
    files = json.loads((golden / "mindformers_r08/yaml_keys.json").read_text())["files"]
    assert len(files) == 12
    for keys in files.values():
        section: dict = {}
        for key, value in keys.items():
            if key.startswith("model.model_config."):
                *path, leaf = key.removeprefix("model.model_config.").split(".")
                place = section
                for part in path:
                    place = place.setdefault(part, {})
                place[leaf] = value
        assert CONFIGS.check(section, "model.model_config") == []
        config = CONFIGS.build(section, "model.model_config")
        assert config.layernorm_epsilon == 1e-5 and config.pre_seq_len == 0


@pytest.mark.parametrize(
    "name, ratio, method",
    [
        ("chatglm2-6b", 1, "base"),
        ("chatglm2-6b-32k", 16, "linear"),
        ("chatglm3-6b", 1, "base"),
        ("chatglm3-6b-32k", 50, "base"),
        ("codegeex2-6b", 1, "base"),
        ("glm-4-9b-chat", 500, "base"),
    ],
)
def test_official_files_are_read_and_written(shared, name, ratio, method):
    given = json.loads((shared / f"data/configs/{name}/config.json").read_text())
    config = ChatGLM2Config.from_hf(given)
    assert (config.rope_ratio, config.rope_method) == (ratio, method)
    assert (config.num_layers, config.padded_vocab_size) == (given["num_layers"], given["padded_vocab_size"])
    assert (config.seq_length, config.compute_dtype) == (given["seq_length"], given["torch_dtype"])
    again = config.to_hf()
    assert ChatGLM2Config.from_hf(again).to_hf() == again
    for key in set(given) & set(again) - {"architectures", "eos_token_id", "use_cache", "pad_token_id"}:
        assert again[key] == given[key], key


def test_a_rope_ratio_of_unknown_meaning_is_refused():
    given = {"model_type": "chatglm", "num_layers": 28, "rope_ratio": 16, "_name_or_path": "my-model"}
    with pytest.raises(ConfigError, match=r"rope_ratio: got 16.*rope_method.*'linear'.*'base'"):
        ChatGLM2Config.from_hf(given)
    assert ChatGLM2Config.from_hf(given, rope_method="linear").rope_method == "linear"


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("/data/ChatGLM3/models/chatglm2-6b-32k", "linear"),
        ("/data/chatglm2/output/chatglm3-6b-32k/checkpoint-10", "base"),
        ("/data/ChatGLM3/output/my-sft", None),
        ("/data/output/my-sft", None),
    ],
)
def test_the_last_part_of_the_path_tells_what_rope_ratio_means(shared, tmp_path, name, method):
    given = json.loads((shared / "data/configs/chatglm2-6b-32k/config.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**given, "_name_or_path": name}), encoding="utf-8-sig")
    read = read_config(path)[0]
    if method is None:
        for call in (read.settled, lambda: AutoConfig.from_pretrained(path), lambda: ChatGLM2Model(read)):
            with pytest.raises(ConfigError, match="set rope_method"):
                call()
        assert "rope_method" not in read.to_hf()
        method = "base"
        assert AutoConfig.from_pretrained(path, rope_method=method).rope_method == method
        assert AutoConfig.from_pretrained(path, rope_ratio=1).rope_ratio == 1
    else:
        assert AutoConfig.from_pretrained(path).rope_method == read.rope_method == method


def test_a_file_in_the_style_of_transformers_is_read_by_its_own_keys(shared, tmp_path):
    styled = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    styled |= {"num_key_value_heads": 2, "vocab_size": 1024, "rms_norm_eps": 1e-6, "max_position_embeddings": 128}
    styled |= {"multi_query_attention": True, "model_type": "chatglm", "attention_bias": False}
    path = tmp_path / "config.json"

    def read(**changes):
        given = {**styled, **changes}
        path.write_text(json.dumps({key: value for key, value in given.items() if value != "absent"}))
        return AutoConfig.from_pretrained(path)

    config = read()
    assert (config.num_layers, config.hidden_size, config.ffn_hidden_size, config.padded_vocab_size) == (
        4,
        64,
        96,
        1024,
    )
    assert (config.num_attention_heads, config.num_kv_heads, config.kv_channels, config.seq_length) == (4, 2, 16, 128)
    assert (config.layernorm_epsilon, config.add_qkv_bias, config.rope_ratio) == (1e-6, False, 1)
    assert (read(head_dim=32).kv_channels, read(rope_theta=5e5).rope_ratio) == (32, 50)
    assert read(num_layers=4, padded_vocab_size=1088, seq_length=64).padded_vocab_size == 1088
    for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"):
        with pytest.raises(ConfigError, match=r"config.json: \w+: got None.*does not state it"):
            read(**{key: "absent"})
    for changes, words in (
        ({"num_layers": 5}, "num_hidden_layers: got 4. num_layers in the same file is 5"),
        ({"rope_theta": 5e5, "rope_ratio": 2}, "rope_theta: got 500000.0. rope_ratio"),
        ({"hidden_act": "gelu"}, "hidden_act: got 'gelu'"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(**changes)
    official = json.loads((shared / "data/configs/glm-4-9b-chat/config.json").read_text())
    path.write_text(json.dumps(official))
    assert AutoConfig.from_pretrained(path).num_layers == official["num_hidden_layers"] == 40


@pytest.mark.parametrize(
    "given, message",
    [
        ({"model_type": "llama"}, "model_type: got 'llama'"),
        ({"model_type": "chatglm", "position_encoding_2d": True}, "Use ChatGLM2, ChatGLM3 or GLM-4"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: got True"),
        ({"quantization_bit": 4}, "quantization_bit: got 4"),
    ],
)
def test_other_networks_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        ChatGLM2Config.from_hf(given)


def test_old_yaml_spellings_mean_what_users_mean():
    config = ChatGLM2Config(
        layernorm_epsilon="1e-5", pre_seq_len="None", no_recompute_layers="None", pet_config=None, rope_ratio="50"
    )
    assert (config.layernorm_epsilon, config.pre_seq_len, config.no_recompute_layers) == (1e-5, 0, None)
    assert (config.rope_ratio, config.rope_method) == (50, "base")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"num_layer": 2}, r"num_layer: got 2\. Unknown key\. Did you mean 'num_layers'\?"),
        ({"seq_length": "long"}, "seq_length: got 'long'"),
        ({"num_layers": 0}, "num_layers: got 0"),
        ({"quantization_bit": 3}, "quantization_bit: got 3.*0, 4 or 8"),
        ({"quantization_bit": 8, "hidden_size": 48}, r"quantization_group_size: got 32.*divide hidden_size \(48\)"),
        ({"kv_channels": 6}, "kv_channels: got 6.*multiple of 4"),
        ({"multi_query_group_num": 3}, r"multi_query_group_num: got 3.*num_attention_heads \(4\)"),
        ({"vocab_size": 5}, r"vocab_size: got 5.*padded_vocab_size \(101\)"),
        ({"compute_dtype": "int8"}, "compute_dtype: got 'int8'"),
        ({"hidden_dropout": 1.5}, "hidden_dropout: got 1.5"),
        ({"rope_method": "yarn"}, "rope_method: got 'yarn'"),
        ({"use_rearrange_rope": True}, "use_rearrange_rope: got True.*tools/convert_weight.py"),
        ({"mask_generate": "inmap"}, "mask_generate: got 'inmap'"),
        ({"no_recompute_layers": [2]}, "no_recompute_layers: got 2.*0 to 1"),
        ({"pet_config": {"pet_type": "lokr"}}, r"pet_config\.pet_type: got 'lokr'"),
        ({"pet_config": {"lora_rnk": 4}}, r"pet_config\.lora_rnk: got 4.*'lora_rank'"),
        ({"pre_seq_len": 8, "prefix_projection": True}, "prefix_projection: got True"),
        ({"pre_seq_len": 8, "pet_config": {"pet_type": "lora"}}, "pre_seq_len: got 8"),
        ({"recompute_config": {"recomput": True}}, r"recompute_config\.recomput: got True"),
    ],
)
def test_wrong_values_name_their_key(values, message):
    with pytest.raises(ConfigErrors, match=message):
        tiny_config(**values)


def test_all_faults_come_at_once_and_with_the_place_in_the_yaml():
    faults = CONFIGS.check(
        {"type": "ChatGLM2Config", "kv_channels": 6, "mask_generate": "inmap", "vocab_size": 7}, "model.model_config"
    )
    assert [fault.key for fault in faults] == [
        f"model.model_config.{key}" for key in ("mask_generate", "vocab_size", "kv_channels")
    ]


def test_assignment_is_checked_too():
    config = tiny_config()
    config.seq_length = "128"
    assert config.seq_length == 128
    with pytest.raises(ConfigErrors, match="seq_length: got 0"):
        config.seq_length = 0
    with pytest.raises(ConfigErrors, match="seq_lenght: got 1.*'seq_length'"):
        config.seq_lenght = 1


def test_recompute_forms_name_layers():
    layers = RecomputeConfig().layers
    assert list(layers(True, 4)) == [0, 1, 2, 3]
    assert list(layers(False, 4)) == []
    assert list(layers(3, 4)) == list(layers([3], 4)) == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"recompute_config\.recompute: got \[2, 2\].*one stage"):
        layers([2, 2], 4)


def test_the_adapter_of_a_configuration():
    assert tiny_config().adapter is None
    assert tiny_config(pet_config={"lora_rank": 4}).adapter.lora_rank == 4
    assert tiny_config(pre_seq_len=5).adapter.pre_seq_len == 5
    assert tiny_config(pet_config={"pet_type": "ptuning2", "pre_seq_len": 5}, pre_seq_len=5).has_prefix
    assert tiny_config(eos_token_id=[2, 7]).eos_token_ids == [2, 7] and tiny_config().eos_token_ids == [2]
