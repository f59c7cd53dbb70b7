"""ChatGLM2Config: what MindFormers and the official config.json say, and messages for what does not fit."""

from __future__ import annotations

import json

import pytest
from tiny_networks import tiny_config

from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.models.glm.config import ChatGLM2Config, RecomputeConfig
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
    "given, message",
    [
        ({"model_type": "llama"}, "model_type: got 'llama'"),
        ({"model_type": "chatglm", "position_encoding_2d": True}, "Only ChatGLM2, ChatGLM3 and GLM-4"),
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
        ({"quantization_bit": 4, "pet_config": {"pet_type": "lora"}}, "quantization_bit: got 4. Merge the adapter"),
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
