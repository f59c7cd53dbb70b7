"""A folder of trained weights with its configuration and tokenizer is a model."""

import pytest

from mindformers_glm import AutoConfig, AutoTokenizer
from mindformers_glm.errors import CheckpointError
from mindformers_glm.train.model_beside import describe_model

LORA = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 32, "target_modules": ".*query_key_value*"}


@pytest.mark.parametrize("adapter", [{}, {"pet_config": LORA}, {"pre_seq_len": 8}])
def test_configuration_and_tokenizer_come_back(tmp_path, adapter):
    config = AutoConfig.from_pretrained("glm2_tiny", seq_length=160, **adapter)
    tokenizer = AutoTokenizer.from_pretrained("glm2_tiny")
    describe_model(tmp_path / "rank_0", config, tokenizer)
    found = AutoConfig.from_pretrained(tmp_path / "rank_0")
    ignored = {"checkpoint_name_or_path", "batch_size", "use_past", "parallel_config"}
    assert found.model_dump(exclude=ignored) == config.model_dump(exclude=ignored)
    assert found.seq_length == 160
    back = AutoTokenizer.from_pretrained(tmp_path / "rank_0")
    assert type(back) is type(tokenizer)
    assert back.encode("你好") == tokenizer.encode("你好")


def test_without_a_tokenizer_only_the_configuration_is_there(tmp_path):
    describe_model(tmp_path, AutoConfig.from_pretrained("glm2_tiny"), None)
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_a_disk_that_refuses_is_one_error(tmp_path):
    (tmp_path / "rank_0").write_text("a file")
    with pytest.raises(CheckpointError, match="could not be written"):
        describe_model(tmp_path / "rank_0", AutoConfig.from_pretrained("glm2_tiny"), None)
