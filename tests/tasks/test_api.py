"""Trainer and TrainingArguments from Python."""

from __future__ import annotations

import json

import pytest

from mindformers_glm import Trainer, TrainingArguments
from mindformers_glm.errors import ConfigError

SMALL = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4}
CHANGES = {
    "model": {"model_config": {**SMALL, "seq_length": 64, "checkpoint_name_or_path": ""}},
    "load_checkpoint": "",
    "allow_random_weights": True,
    "train_dataset": {"max_source_length": 31, "max_target_length": 32},
    "eval_dataset": {"max_source_length": 48, "max_target_length": 32},
    "runner_config": {"batch_size": 4, "sink_mode": False, "epochs": 1},
}


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"content": f"类型#裙*颜色#红色*图案#{i}", "summary": f"红色的裙子{i}。"} for i in range(8)]
    (tmp_path / "data.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    made = Trainer(task="text_generation", model="glm2_tiny", train_dataset="data.json", eval_dataset="data.json")
    for section, values in CHANGES.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            made.set_key(f"{section}.{name}", value)
        if not isinstance(values, dict):
            made.set_key(section, values)
    return made


def test_train_evaluate_and_predict(trainer, tmp_path):
    state = trainer.train()
    assert state.global_step == 2
    last = trainer.get_last_checkpoint()
    assert last is not None
    assert last.endswith("glm2-tiny_rank_0-1_2.ckpt")
    weights = str(tmp_path / "output/checkpoint_network/rank_0/glm2-tiny_rank_0-network.ckpt")
    beside = {file.name for file in (tmp_path / "output/checkpoint_network/rank_0").iterdir()}
    assert beside >= {"config.yaml", "tokenizer.model", "tokenizer_config.json"}
    figures = trainer.evaluate(eval_checkpoint=weights)
    assert set(figures) == {"rouge-1", "rouge-2", "rouge-l", "bleu-4"}
    results = trainer.predict(predict_checkpoint=weights, input_data=["你好", "红色"], max_length=16)
    assert [len(result["text_generation_text"]) for result in results] == [1, 1]
    assert not (tmp_path / "configs").exists()  # MindFormers copied its configurations into the current folder


def test_training_goes_on_from_the_newest_checkpoint(trainer):
    trainer.train()
    trainer.set_key("runner_config.epochs", 2)
    assert trainer.train(resume_training=True).global_step == 4


def test_arguments_become_keys_of_the_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = TrainingArguments(
        output_dir="elsewhere",
        num_train_epochs=3,
        batch_size=2,
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        optim="adamw",
        weight_decay=0.05,
        seed=7,
        save_steps=11,
        save_total_limit=3,
        sink_mode=False,
    )
    config = Trainer(arguments, model="glm2_tiny").config("finetune")
    assert (config.output_dir, config.seed, config.runner_config.epochs) == ("elsewhere", 7, 3)
    assert config.runner_config.batch_size == 2
    assert (config.lr_schedule["type"], config.lr_schedule["learning_rate"]) == ("cosine", 1e-4)
    assert (config.optimizer["type"], config.optimizer["weight_decay"]) == ("adamw", 0.05)
    saving = [spec for spec in config.callbacks if spec["type"].startswith("CheckpointMo")]
    assert [(spec["save_checkpoint_steps"], spec["keep_checkpoint_max"]) for spec in saving] == [(11, 3)]
    none = Trainer(TrainingArguments(save_strategy="no"), model="glm2_tiny").config("finetune")
    assert not [spec for spec in none.callbacks if spec["type"].startswith("CheckpointMo")]


def test_pet_method_and_sections(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(model="glm2_tiny", pet_method="lora")
    trainer.set_parallel_config(data_parallel=1, model_parallel=1)
    trainer.set_recompute_config(recompute=True)
    config = trainer.config("finetune")
    assert config.model.config["pet_config"]["pet_type"] == "lora"
    assert config.recompute_config.recompute is True


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Trainer(task="image_classification", model="glm2_tiny"), "task"),
        (lambda: Trainer(), "model"),
        (lambda: Trainer(model="nonsense"), "Registered names"),
        (lambda: Trainer(args=3, model="glm2_tiny"), "args"),
        (lambda: Trainer(model="glm2_tiny", audio_processor=object()), "text only"),
        (lambda: Trainer(TrainingArguments(save_strategy="often"), model="glm2_tiny"), "save_strategy"),
        (
            lambda: Trainer(TrainingArguments(batch_size=2, per_device_train_batch_size=3), model="glm2_tiny"),
            "batch_size",
        ),
        (lambda: Trainer(model="glm2_tiny").train(train_checkpoint=True), "train first"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, call, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=named):
        call()
