from __future__ import annotations

import copy
import os
import pickle

import pytest
import yaml
from pydantic import ValidationError

from mindformers_glm import log, registry
from mindformers_glm.config import RunConfig, load_config, make_config, run
from mindformers_glm.config.sections import ParallelSection
from mindformers_glm.config.spec import Spec
from mindformers_glm.errors import ConfigError, ConfigErrors


def test_sections_are_typed_and_components_are_descriptions_that_build(written):
    config = load_config(written())
    assert config.runner_config.epochs == 2
    assert config.context.device_target == "CPU"
    assert config.context.mode == 0
    assert isinstance(config, RunConfig) and isinstance(config.parallel, ParallelSection)
    assert {type(spec) for spec in (config.optimizer, config.model.config, config.callbacks[1])} == {Spec}
    assert (config.optimizer.key, config.callbacks[1].key) == ("optimizer", "callbacks.1")
    assert config.optimizer.type == config.optimizer["type"] == config.to_dict()["optimizer"]["type"]
    assert config.source.endswith("run.yaml")


def test_a_known_key_that_is_not_given_is_none_and_an_unknown_one_an_error(written):
    config = load_config(written())
    assert config.infer is None
    assert config.train_dataset.max_seq_length is None
    with pytest.raises(AttributeError, match="epoch"):
        _ = config.runner_config.epoch


def test_a_configuration_is_frozen(written):
    config = load_config(written())
    for change in (
        lambda: setattr(config, "seed", 3),
        lambda: setattr(config.runner_config, "epochs", 3),
        lambda: setattr(config.runner_config, "epoch", 3),
    ):
        with pytest.raises(ValidationError, match="frozen|no field"):
            change()
    with pytest.raises(TypeError):
        config.optimizer["type"] = "AdamW"
    with pytest.raises(AttributeError):
        config.optimizer.learning_rate = 1e-3
    config.optimizer.to_dict()["type"] = config.optimizer.arguments["type"] = "AdamW"
    assert config.optimizer.type != "AdamW"


def test_a_component_is_built_with_what_only_the_program_has(written):
    class Momentum:
        def __init__(self, params: list, momentum: float = 0.9, learning_rate: object = None) -> None:
            self.seen = (params, momentum, learning_rate)

    class Falling:
        def __init__(self, learning_rate: float) -> None:
            self.first = learning_rate

    registry.OPTIMIZERS.register()(Momentum)
    registry.LR_SCHEDULES.register()(Falling)
    wanted = {"type": "Momentum", "momentum": 0.5, "learning_rate": {"type": "Falling", "learning_rate": 1e-3}}
    config = make_config({**yaml.safe_load(written().read_text()), "optimizer": wanted, "lr_schedule": None})
    assert config.rate == ("optimizer.learning_rate", wanted["learning_rate"])
    built = config.optimizer.build(params=[1], absent=2)
    assert built.seen[:2] == ([1], 0.5) and built.seen[2].first == 1e-3
    assert config.optimizer.without("learning_rate").changed(momentum=0.1).build(params=[]).seen == ([], 0.1, None)
    assert config.rate[1].build().first == 1e-3
    with pytest.raises(LookupError, match="no component"):
        Spec({"type": "Momentum"}).build()


def test_the_batch_size_of_the_run_and_its_seed_are_those_of_both_datasets(written):
    config = load_config(written("runner_config.batch_size=2", "eval_dataset.batch_size=9", "seed=5"))
    assert config.train_dataset.batch_size == config.eval_dataset.batch_size == 2
    assert config.train_dataset.seed == config.eval_dataset.seed == 5
    assert config.notes == [
        "train_dataset.batch_size: runner_config.batch_size (2) replaces 4.",
        "eval_dataset.batch_size: runner_config.batch_size (2) replaces 9.",
    ]


def test_the_dataset_of_a_phase(written):
    config = load_config(written(), ["train_dataset.max_source_length=40", "model.model_config.seq_length=89"])
    section, task = config.dataset("train")
    assert (section.max_source_length, task.type) == (40, "KeyWordGenDataset")
    assert config.dataset("eval")[0] is config.eval_dataset
    assert "num_parallel_workers" not in section.to_dict()  # what was not written is left to the class
    registry.DATASETS.register("KeyWordGenDataset")(lambda **keys: keys)
    own = load_config(written(), {"train_dataset": {"of_the_class": 3}}).train_dataset
    assert own.of_the_class == own.to_dict()["of_the_class"] == 3


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ([], "start.ckpt"),
        (["run_mode=train"], "start.ckpt"),
        (["run_mode=train", "load_checkpoint=", "model.model_config.checkpoint_name_or_path=glm2_6b"], "glm2_6b"),
        (["run_mode=eval", "load_checkpoint=", "model.model_config.checkpoint_name_or_path=glm2_6b"], "glm2_6b"),
        (["load_checkpoint=", "allow_random_weights=true"], None),
        (["load_checkpoint=", "allow_random_weights=true", "model.model_config.checkpoint_name_or_path=glm2_6b"], None),
        (["run_mode=eval", "load_checkpoint=", "allow_random_weights=true"], None),
        (["allow_random_weights=true"], "start.ckpt"),
    ],
)
def test_where_the_weights_come_from(written, changes, weights):
    assert load_config(written(*changes)).initial_weights == weights


def test_a_run_that_was_to_be_resumed_starts_from_nothing_only_on_request(written):
    config = load_config(written("load_checkpoint=", "resume_training=true"))
    with pytest.raises(ConfigError, match="nothing to start from"):
        _ = config.initial_weights
    assert config.changed(["allow_random_weights=true"]).initial_weights is None


def test_profiling_is_a_callback(written):
    config = load_config(written("profile=true", "profile_stop_step=3", "init_start_profile=false"))
    expected = {"type": "ProfileMonitor", "stop_step": 3, "start_profile": False}
    assert {**config.callbacks[-1], **expected} == config.callbacks[-1]
    assert config.changed([]).callbacks == config.callbacks


def test_training_from_the_second_name_is_said(written):
    changes = ["run_mode=train", "load_checkpoint=", "model.model_config.checkpoint_name_or_path=glm2_6b"]
    (note,) = load_config(written(*changes)).notes
    assert "allow_random_weights: True to train from random weights" in note


def test_several_devices_without_a_launcher_are_said(written, monkeypatch):
    monkeypatch.delenv("RANK_SIZE", raising=False)
    monkeypatch.delenv("MS_WORKER_NUM", raising=False)
    assert "one process was started" in load_config(written("use_parallel=true")).notes[0]
    monkeypatch.setenv("RANK_SIZE", "2")
    assert load_config(written("use_parallel=true")).notes == []


def test_notes_are_logged_once(written, monkeypatch, caplog):
    log.forget_told()
    monkeypatch.setattr(log.logger, "propagate", True)
    with caplog.at_level("INFO", logger=log.logger.name):
        for _ in range(2):
            load_config(written("auto_tune=true")).log_notes()
    found = {id(r) for r in caplog.records if r.getMessage().startswith("auto_tune: True has no effect here")}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("values", "mode"),
    [({"infer": {}, "model": {}}, "export"), ({"train_dataset": {}}, "train"), ({"model": {}}, "predict")],
)
def test_a_file_without_a_mode_has_that_of_its_sections(values, mode):
    assert run.default_mode(values) == mode


def test_what_is_dumped_is_read_back_as_the_same(written, tmp_path):
    config = load_config(written("train_dataset.label_convention=0.8", "eval_step_interval=7"))
    callbacks = config.to_dict()["callbacks"]
    callbacks[1]["prefix"] = "1e-5"  # text that looks like a number
    config = config.changed({"callbacks": callbacks})
    again = load_config(config.dump(tmp_path / "out" / "resolved.yaml"))
    assert again.to_dict() == config.to_dict()
    assert again.callbacks[1]["prefix"] == "1e-5"
    assert again.train_dataset.label_convention == "0.8"
    assert os.listdir(tmp_path / "out") == ["resolved.yaml"]


def test_a_dump_that_fails_leaves_the_old_file_and_no_other(written, tmp_path, monkeypatch):
    config = load_config(written())
    target = config.dump(tmp_path / "out" / "resolved.yaml")
    before = target.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        config.dump(target)
    assert os.listdir(tmp_path / "out") == ["resolved.yaml"]
    assert target.read_text() == before


def test_the_dump_is_plain_yaml_without_anchors(written, tmp_path):
    text = load_config(written()).dump(tmp_path / "resolved.yaml").read_text()
    assert "&" not in text
    assert yaml.safe_load(text)["train_dataset_task"] == {"type": "KeyWordGenDataset"}


def test_a_changed_configuration_is_a_new_one_checked_again(written):
    config = load_config(written())
    assert config.changed(["runner_config.epochs=7"]).runner_config.epochs == 7
    assert config.changed({"runner_config": {"epochs": 7}}).runner_config.epochs == 7
    assert config.runner_config.epochs == 2
    with pytest.raises(ConfigErrors, match="It should be at least 1"):
        config.changed(["runner_config.epochs=0"])


def test_a_configuration_can_be_copied(written):
    config = load_config(written())
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other.to_dict() == config.to_dict()
        assert other == config
        assert (other.source, other.notes) == (config.source, config.notes)


def test_a_mapping_is_checked_like_a_file_and_left_alone(small):
    before = copy.deepcopy(small)
    assert make_config(small).runner_config.batch_size == 4
    assert small == before


def test_a_vocabulary_is_found_beside_the_weights(written, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(b"x")
    (folder / "start.ckpt").write_bytes(b"x")
    for weights in (folder, folder / "start.ckpt"):
        config = load_config(
            written(f"load_checkpoint={weights}", 'eval_dataset.tokenizer={"type": "ChatGLM2Tokenizer"}')
        )
        assert config.eval_dataset.tokenizer["vocab_file"] == str(folder / "tokenizer.model")
        assert config.train_dataset.tokenizer["vocab_file"] == "tokenizer.model"  # what is given stays


def test_a_tokenizer_without_a_vocabulary_takes_that_of_another(written):
    config = load_config(written('eval_dataset.tokenizer={"type": "ChatGLM2Tokenizer"}'))
    assert config.eval_dataset.tokenizer["vocab_file"] == "tokenizer.model"


def test_a_vocabulary_that_is_nowhere_is_left_to_the_tokenizer(written):
    config = load_config(written('train_dataset.tokenizer={"type": "ChatGLM2Tokenizer", "vocab_file": null}'))
    assert "vocab_file" not in config.train_dataset.tokenizer
