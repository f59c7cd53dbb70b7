"""Another `type` than that of the file below keeps what both classes take, and leaves the rest out."""

from __future__ import annotations

import pytest

from mindformers_glm.config import load_config, read_yaml
from mindformers_glm.errors import ConfigErrors
from mindformers_glm.registry import DATA_LOADERS, DATASETS, OPTIMIZERS


@pytest.fixture(autouse=True)
def classes():
    @DATA_LOADERS.register()
    def ADGenDataLoader(dataset_dir: str, phase: str = "train", version: int = 2): ...

    @DATA_LOADERS.register()
    def AlpacaDataLoader(dataset_dir: str, phase: str = "train"): ...

    @OPTIMIZERS.register()
    def FP32StateAdamWeightDecay(params, beta1: float = 0.9): ...

    @OPTIMIZERS.register()
    def SGD(params, momentum: float = 0.0): ...

    @DATASETS.register()
    def KeyWordGenDataset(
        data_loader, tokenizer=None, max_source_length: int = 1, max_target_length: int = 1, **rest
    ): ...

    @DATASETS.register()
    def MultiTurnDataset(data_loader, tokenizer=None, max_seq_length: int = 1, batch_size: int = 1, seed: int = 0): ...


LOADER = "train_dataset.data_loader"


def test_inherited_arguments_that_the_new_class_lacks_are_left_out_with_a_line(written):
    path = written(f"{LOADER}.version=2")
    config = load_config(path, [f"{LOADER}.type=AlpacaDataLoader", f"{LOADER}.phase=eval"])
    assert config.train_dataset.data_loader == {
        "type": "AlpacaDataLoader",
        "dataset_dir": "train.json",
        "phase": "eval",
    }
    assert [note for note in config.notes if note.startswith(LOADER)] == [
        f"{LOADER}: version of the file below left out: AlpacaDataLoader does not take it."
    ]


def test_the_rule_is_the_same_for_base_config(written, tmp_path):
    written(name="base.yaml")
    path = tmp_path / "run.yaml"
    path.write_text("base_config: base.yaml\noptimizer: {type: SGD, momentum: 0.5}\n")
    assert load_config(path).optimizer == {"type": "SGD", "momentum": 0.5}
    path.write_text("base_config: base.yaml\noptimizer: {type: SGD, beta1: 0.5}\n")  # written beside the type
    with pytest.raises(ConfigErrors, match=r"optimizer.beta1: got 0.5. Unknown key"):
        load_config(path)


def test_an_argument_written_for_the_new_class_stays_a_fault(written):
    with pytest.raises(ConfigErrors, match=r"data_loader.version: got 3. Unknown key"):
        load_config(written(), [f"{LOADER}.type=AlpacaDataLoader", f"{LOADER}.version=3"])


def test_a_dataset_of_another_class_leaves_the_lengths_of_the_first(written):
    words = ["train_dataset_task.type=MultiTurnDataset", "train_dataset.max_seq_length=64"]
    config = load_config(written(), words)
    assert "max_source_length" not in config.train_dataset
    assert config.train_dataset.max_seq_length == 64


def test_a_type_that_changes_twice_drops_the_keys_of_both(written, tmp_path):
    written(f"{LOADER}.version=2", name="a.yaml")
    (tmp_path / "b.yaml").write_text("base_config: a.yaml\ntrain_dataset: {data_loader: {type: AlpacaDataLoader}}\n")
    (tmp_path / "c.yaml").write_text("base_config: b.yaml\ntrain_dataset: {data_loader: {phase: train}}\n")
    assert "version" not in load_config(tmp_path / "c.yaml").train_dataset.data_loader


def test_what_is_read_is_still_a_plain_mapping(written, tmp_path):
    written(name="a.yaml")
    (tmp_path / "b.yaml").write_text("base_config: a.yaml\noptimizer: {type: SGD}\n")
    assert read_yaml(tmp_path / "b.yaml")["optimizer"] == {"type": "SGD", "beta1": 0.9}
