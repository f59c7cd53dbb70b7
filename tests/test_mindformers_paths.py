"""The import paths of MindFormers with the package renamed, and the register that users' own classes call."""

from importlib import import_module

import pytest

import mindformers_glm
from mindformers_glm.errors import ConfigError
from mindformers_glm.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("trainer", "Trainer TrainingArguments"),
        ("trainer.trainer", "Trainer"),
        ("trainer.training_args", "TrainingArguments"),
        ("auto_class", "AutoConfig AutoModel AutoProcessor AutoTokenizer"),
        ("pipeline", "TextGenerationPipeline pipeline"),
        ("models", "ChatGLM2Config ChatGLM2ForConditionalGeneration ChatGLM2Tokenizer ChatGLM3Tokenizer"),
        ("models.glm2", "ChatGLM2Config ChatGLM2ForConditionalGeneration ChatGLM2Tokenizer"),
        ("models.glm3", "ChatGLM3Tokenizer"),
    ],
)
def test_a_path_gives_the_classes_of_the_package(path, names):
    module = import_module(f"mindformers_glm.{path}")
    for name in names.split():
        assert getattr(module, name) is getattr(mindformers_glm, name)


@pytest.mark.parametrize(
    "place",
    [
        "core.build_lr core.build_optim core.build_metric core.build_callback core.build_wrapper core.ADGENMetric",
        "core.callback.MFLossMonitor core.callback.CheckpointMointor core.lr.CosineWithWarmUpLR core.lr.build_lr",
        "core.optim.FP32StateAdamWeightDecay core.metric.PerplexityMetric tools.logger tools.MindFormerConfig",
        "tools.register.MindFormerRegister pet.get_pet_model pet.LoraConfig dataset.KeyWordGenDataset",
        "dataset.build_dataset dataset.build_dataset_loader dataset.ADGenDataLoader",
    ],
)
def test_the_other_paths_are_there(place):
    for name in place.split():
        path, _, attribute = name.rpartition(".")
        assert getattr(import_module(f"mindformers_glm.{path}"), attribute) is not None


def test_builders():
    from mindformers_glm.core import build_callback, build_lr, build_metric

    assert build_lr(class_name="constant", learning_rate=0.5)(3) == 0.5
    assert type(build_metric({"type": "PerplexityMetric"})).__name__ == "PerplexityMetric"
    assert [type(item).__name__ for item in build_callback([{"type": "LossMonitor"}])] == ["LossMonitor"]
    with pytest.raises(ConfigError, match="PerplexityMetric"):
        build_metric(class_name="PerplexityMetrik")


def test_users_register_as_with_mindformers():
    @MindFormerRegister.register(MindFormerModuleType.DATASET_LOADER, alias="own_loader_of_a_test")
    class LoaderOfATest:
        def __init__(self, dataset_dir):
            self.dataset_dir = dataset_dir

    assert MindFormerRegister.is_exist("dataset_loader", "LoaderOfATest")
    assert MindFormerRegister.get_cls("dataset_loader", "own_loader_of_a_test") is LoaderOfATest
    made = MindFormerRegister.get_instance_from_cfg(
        {"type": "LoaderOfATest", "dataset_dir": "a"}, "dataset_loader", default_args={"dataset_dir": "b"}
    )
    assert made.dataset_dir == "b"
    with pytest.raises(ValueError, match="No data loader has this name"):
        MindFormerRegister.get_cls("dataset_loader", "no_such_loader")
    with pytest.raises(ConfigError, match="module_type"):
        MindFormerRegister.get_cls("mask_policy", "x")


def test_a_configuration_reads_as_attributes(root):
    config = MindFormerConfig(str(root / "configs/tiny/run_glm2_tiny_finetune.yaml"))
    assert config.model.model_config.seq_length == config["model"]["model_config"]["seq_length"] == 160
    assert config.nothing is None
    config.seed = 7
    assert config["seed"] == 7
