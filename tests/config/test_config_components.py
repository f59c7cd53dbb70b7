from __future__ import annotations

from typing import Any

import pydantic
import pytest

from mindformers_glm import registry
from mindformers_glm.config import load_config
from mindformers_glm.errors import ConfigErrors


class ChatGLM2Config(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    num_layers: int = 28
    num_attention_heads: int = 32
    multi_query_group_num: int = 2
    seq_length: int = 2048
    layernorm_epsilon: float = 1e-5


class ADGenDataLoader:
    def __init__(self, dataset_dir: str, phase: str = "train", num_samples: int | None = None) -> None: ...


class KeyWordGenDataset:
    def __init__(
        self,
        *,
        data_loader: Any,
        tokenizer: Any = None,
        max_source_length: int = 64,
        max_target_length: int = 128,
        batch_size: int = 1,
        keep_template: bool = False,
        rank: int = 0,
    ) -> None: ...


class FP32StateAdamWeightDecay:
    def __init__(self, params: Any, learning_rate: float = 1e-3, beta1: float = 0.9) -> None: ...


def polynomial(learning_rate: float, lr_end: float = 1e-7, total_steps: int = -1, *, key: str = "") -> Any: ...


class MFTrainOneStepCell:
    def __init__(self, network: Any, optimizer: Any, use_clip_grad: bool = False, scale_sense: Any = 1.0) -> None: ...


class DynamicLossScaleUpdateCell:
    def __init__(self, loss_scale_value: float = 1.0) -> None: ...


class CheckpointMointor:
    def __init__(self, prefix: str = "CKP", save_checkpoint_steps: int = 1) -> None: ...


class MFLossMonitor:
    def __init__(self, per_print_times: int = 1) -> None: ...


class ADGENMetric:
    pass


class CausalLanguageModelingTrainer:
    pass


@pytest.fixture(autouse=True)
def fakes(empty_registries):
    for kind, *classes in (
        (registry.CONFIGS, ChatGLM2Config),
        (registry.DATA_LOADERS, ADGenDataLoader),
        (registry.DATASETS, KeyWordGenDataset),
        (registry.OPTIMIZERS, FP32StateAdamWeightDecay),
        (registry.LR_SCHEDULES, polynomial),
        (registry.WRAPPERS, MFTrainOneStepCell),
        (registry.SCALE_SENSES, DynamicLossScaleUpdateCell),
        (registry.CALLBACKS, CheckpointMointor, MFLossMonitor),
        (registry.METRICS, ADGENMetric),
        (registry.TRAINERS, CausalLanguageModelingTrainer),
    ):
        for item in classes:
            kind.register()(item)


WRAPPER = '{"type": "MFTrainOneStepCell", "scale_sense": {"type": "DynamicLossScaleUpdateCell"}}'


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["model.model_config.layernorm_epsilon='1e-5'"],
        [f"runner_wrapper={WRAPPER}", "runner_wrapper.use_clip_grad=true"],
        [f"runner_wrapper={WRAPPER}", "runner_wrapper.scale_sense=65536"],
        ["train_dataset.keep_template=true"],
        ["lr_schedule.total_steps=-1"],
        ["lr_schedule=null", 'optimizer.learning_rate={"type": "polynomial", "learning_rate": 1e-3}'],
        ['metric=[{"type": "ADGENMetric"}]'],
    ],
)
def test_components_that_fit_are_accepted(written, changes):
    load_config(written(*changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["model.model_config.num_layer=2"],
            "model.model_config.num_layer: got 2. Unknown key. Did you mean 'num_layers'?",
        ),
        (["model.model_config.num_layers=two"], "model.model_config.num_layers: got 'two'."),
        (["model.model_config.type=ChatGLM9Config"], "model.model_config.type: got 'ChatGLM9Config'. No model config"),
        (["optimizer.type=FP32StateAdam"], "optimizer.type: got 'FP32StateAdam'. No optimizer has this name. Did you"),
        (["optimizer.beta3=1"], "optimizer.beta3: got 1. Unknown key. Did you mean 'beta1'?"),
        (["optimizer.params=1"], "optimizer.params: got 1. Unknown key."),
        (["optimizer.learning_rate=fast"], "optimizer.learning_rate: got 'fast'. Give a number or a schedule"),
        (['optimizer.learning_rate={"type": "cosin"}'], "optimizer.learning_rate.type: got 'cosin'."),
        (["lr_schedule.lr_ends=0.0"], "lr_schedule.lr_ends: got 0.0. Unknown key. Did you mean 'lr_end'?"),
        (["lr_schedule.key=x"], "lr_schedule.key: got 'x'. Unknown key."),
        (["callbacks.1.prefixx=a"], "callbacks.1.prefixx: got 'a'. Unknown key. Did you mean 'prefix'?"),
        (["callbacks.0.type=MFLosMonitor"], "callbacks.0.type: got 'MFLosMonitor'. No callback has this name."),
        (["metric.type=ADGEN"], "metric.type: got 'ADGEN'. No metric has this name."),
        (['metric=[{"type": "ADGEN"}]'], "metric.0.type: got 'ADGEN'."),
        (["train_dataset.data_loader.dataset_dri=x"], "train_dataset.data_loader.dataset_dri: got 'x'. Unknown key."),
        (["train_dataset.keep_templat=1"], "train_dataset.keep_templat: got 1. Unknown key. Did you mean 'keep_tem"),
        (["train_dataset.keep_template=abc"], "train_dataset.keep_template: got 'abc'."),
        (["train_dataset.rank=1"], "train_dataset.rank: got 1. Unknown key."),
        (["train_dataset.max_seq_length=1"], "train_dataset.max_seq_length: got 1. Unknown key."),
        (["train_dataset_task.type=KeyWordDataset"], "train_dataset_task.type: got 'KeyWordDataset'. No dataset"),
        (["trainer.type=Trainer"], "trainer.type: got 'Trainer'. No trainer has this name."),
        ([f"runner_wrapper={WRAPPER}", "runner_wrapper.use_clip=1"], "runner_wrapper.use_clip: got 1. Unknown key."),
        ([f"runner_wrapper={WRAPPER}", "runner_wrapper.scale_sense.x=1"], "runner_wrapper.scale_sense.x: got 1."),
        ([f"runner_wrapper={WRAPPER}", "runner_wrapper.scale_sense=0"], "runner_wrapper.scale_sense: got 0. Give a"),
    ],
)
def test_a_component_that_does_not_fit_is_one_line_with_its_place(written, changes, said):

    with pytest.raises(ConfigErrors) as caught:
        load_config(written(*changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
