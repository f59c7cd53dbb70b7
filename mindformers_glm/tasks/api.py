"""`Trainer` and `TrainingArguments`: the run modes from Python, as MindFormers users call them."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.checkpoint.store.resume import TrainState
from mindformers_glm.checkpoint.store.saved import resume_file
from mindformers_glm.config import RunConfig
from mindformers_glm.config.loader import merge, read_yaml
from mindformers_glm.config.names import CONFIGS_DIR, model_name
from mindformers_glm.config.overrides import nest
from mindformers_glm.config.run import make_config
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.registry import TRAINERS
from mindformers_glm.tasks.task import prepare
from mindformers_glm.tokenizers.glm import GLMTokenizer

_TASKS = ("general", "text_generation")
_MODES = {"train": "train", "finetune": "train", "eval": "evaluate", "predict": "predict", "export": "export"}
_SHARED_KEYS = ("learning_rate", "warmup_steps", "warmup_ratio", "warmup_epochs", "total_steps", "weight_decay")
# Argument of TrainingArguments -> keys of the YAML that it sets.
_ARGUMENT_KEYS: dict[str, tuple[str, ...]] = {
    "output_dir": ("output_dir",),
    "seed": ("seed",),
    "use_parallel": ("use_parallel",),
    "only_save_strategy": ("only_save_strategy",),
    "auto_trans_ckpt": ("auto_trans_ckpt",),
    "resume_training": ("resume_training",),
    "resume_from_checkpoint": ("load_checkpoint",),
    "do_eval": ("do_eval",),
    "eval_step_interval": ("eval_step_interval",),
    "eval_epoch_interval": ("eval_epoch_interval",),
    "load_best_model_at_end": ("load_best_at_end",),
    "neftune_noise_alpha": ("neftune_noise_alpha",),
    "label_smoothing_factor": ("label_smoothing_factor",),
    "report_to": ("report_to",),
    "sink_mode": ("runner_config.sink_mode",),
    "sink_size": ("runner_config.sink_size",),
    "num_train_epochs": ("runner_config.epochs",),
    "batch_size": ("runner_config.batch_size",),
    "per_device_train_batch_size": ("runner_config.batch_size",),
    "gradient_accumulation_steps": ("runner_config.gradient_accumulation_steps",),
    "weight_decay": ("optimizer.weight_decay",),
    "adam_beta1": ("optimizer.beta1",),
    "adam_beta2": ("optimizer.beta2",),
    "adam_epsilon": ("optimizer.eps",),
    "learning_rate": ("lr_schedule.learning_rate",),
    "warmup_steps": ("lr_schedule.warmup_steps",),
    "max_grad_norm": ("runner_wrapper.max_grad_norm",),
}


@dataclass(kw_only=True)
class TrainingArguments:
    """Settings of a run by the names that Python users know; None leaves the YAML's value.

    `save_strategy` is "no", "steps" (every `save_steps`) or "seconds" (every `save_seconds`); `save_total_limit` is the
    number of checkpoints kept. `metric_for_best_model` and `greater_is_better` are CheckpointMonitor's keep_best.
    """

    output_dir: str | None = None
    use_parallel: bool | None = None
    only_save_strategy: bool | None = None
    sink_mode: bool | None = None
    sink_size: int | None = None
    batch_size: int | None = None
    per_device_train_batch_size: int | None = None
    per_device_eval_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None
    warmup_steps: int | None = None
    optim: str | None = None
    weight_decay: float | None = None
    adam_beta1: float | None = None
    adam_beta2: float | None = None
    adam_epsilon: float | None = None
    max_grad_norm: float | None = None
    num_train_epochs: int | None = None
    save_strategy: str | None = None
    save_steps: int | None = None
    save_seconds: int | None = None
    save_total_limit: int | None = None
    integrated_save: bool | None = None
    seed: int | None = None
    data_seed: int | None = None
    resume_from_checkpoint: str | None = None
    resume_training: bool | str | None = None
    auto_trans_ckpt: bool | None = None
    do_eval: bool | None = None
    eval_step_interval: int | None = None
    eval_epoch_interval: int | None = None
    load_best_model_at_end: bool | None = None
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    neftune_noise_alpha: float | None = None
    label_smoothing_factor: float | None = None
    report_to: str | list[Any] | None = None
    profile: bool | None = None

    def applied(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a YAML file with these settings over them.

        Raises:
            ConfigError: a save strategy nobody has, or two batch sizes that differ.
        """
        merged = _with_types(values, optimizer=self.optim, lr_schedule=self.lr_scheduler_type)
        for name, keys in _ARGUMENT_KEYS.items():
            value = getattr(self, name)
            if value is not None:
                for key in keys:
                    merged = merge(merged, nest([(key, value)]))
        sizes = {self.batch_size, self.per_device_train_batch_size, self.per_device_eval_batch_size} - {None}
        if len(sizes) > 1:
            fix = "One batch size serves training and evaluation: give one number."
            raise ConfigError("TrainingArguments.batch_size", sorted(sizes), fix)
        if sizes:
            merged = merge(merged, nest([("runner_config.batch_size", sizes.pop())]))
        if self.data_seed not in (None, self.seed):
            raise ConfigError("TrainingArguments.data_seed", self.data_seed, "The data follows `seed`: set that.")
        return self._with_saving(merged)

    def _best(self) -> dict[str, Any] | None:
        if self.metric_for_best_model is None and self.greater_is_better is None:
            return None
        mode = "auto" if self.greater_is_better is None else "max" if self.greater_is_better else "min"
        return {"metric": self.metric_for_best_model, "mode": mode}

    def _with_saving(self, values: dict[str, Any]) -> dict[str, Any]:
        if self.save_strategy not in (None, "no", "steps", "seconds"):
            raise ConfigError("TrainingArguments.save_strategy", self.save_strategy, "Use 'no', 'steps' or 'seconds'.")
        given = {
            "save_checkpoint_steps": self.save_steps,
            "save_checkpoint_seconds": self.save_seconds,
            "keep_checkpoint_max": self.save_total_limit,
            "integrated_save": self.integrated_save,
            "keep_best": self._best(),
        }
        given = {name: value for name, value in given.items() if value is not None}
        if self.save_strategy == "seconds":
            given["save_checkpoint_steps"] = 0
        callbacks = copy.deepcopy(list(values.get("callbacks") or []))
        saving = [spec for spec in callbacks if str(spec.get("type", "")).startswith("CheckpointMo")]
        if self.save_strategy == "no":
            callbacks = [spec for spec in callbacks if spec not in saving]
        elif given and not saving:
            callbacks.append({"type": "CheckpointMonitor", **given})
        for spec in saving:
            spec.update(given)
        return {**values, "callbacks": callbacks}


class Trainer:
    """A task from Python: `Trainer(task="text_generation", model="glm2_tiny", ...).finetune()`.

    `args` is a YAML file, a mapping with its keys, a RunConfig, or TrainingArguments over the default file of `model`.
    `model` is a registered name or a network, `train_dataset` and `eval_dataset` a file or a dataset, `pet_method`
    "lora" or nothing. Nothing is copied into the current folder. Unlike the command line, a Trainer on a machine
    without an Ascend device takes `device_target="CPU"` where it is given so, and never by itself.
    """

    def __init__(
        self,
        args: str | Path | Mapping[str, Any] | RunConfig | TrainingArguments | None = None,
        task: str = "general",
        model: str | nn.Cell | None = None,
        model_name: str | None = None,
        train_dataset: str | Path | TokenDataset | None = None,
        eval_dataset: str | Path | TokenDataset | None = None,
        tokenizer: GLMTokenizer | None = None,
        image_processor: Any = None,
        audio_processor: Any = None,
        optimizers: nn.Cell | None = None,
        wrapper: Mapping[str, Any] | None = None,
        pet_method: str = "",
        callbacks: Any = None,
        eval_callbacks: Any = None,
        compute_metrics: Any = None,
        save_config: bool = False,
        device_target: str | None = None,
    ) -> None:
        for name, value in (("image_processor", image_processor), ("audio_processor", audio_processor)):
            if value is not None:
                raise ConfigError(name, value, "GLM takes text only: leave it out.")
        if task not in _TASKS:
            raise ConfigError("task", task, f"Use one of {', '.join(_TASKS)}.")
        self._parts: dict[str, Any] = {
            "network": model if isinstance(model, nn.Cell) else None,
            "tokenizer": tokenizer,
            "train_dataset": train_dataset if isinstance(train_dataset, TokenDataset) else None,
            "eval_dataset": eval_dataset if isinstance(eval_dataset, TokenDataset) else None,
            "optimizer": optimizers,
            "callbacks": _listed(callbacks) + _listed(eval_callbacks),
            "metric": compute_metrics if not isinstance(compute_metrics, (str, Mapping)) else None,
        }
        known = model if isinstance(model, str) else model_name
        self._values = _base_values(args, known, pet_method)
        for key, value in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            if isinstance(value, (str, Path)):
                self.set_key(f"{key}.data_loader.dataset_dir", str(value))
        if wrapper is not None:
            if not isinstance(wrapper, Mapping):
                raise ConfigError("wrapper", wrapper, "Give a mapping with the keys of runner_wrapper.")
            self._values["runner_wrapper"] = dict(wrapper)
        if isinstance(compute_metrics, (str, Mapping)):
            given = {"type": compute_metrics} if isinstance(compute_metrics, str) else dict(compute_metrics)
            self._values["metric"] = given
        if device_target is not None:
            self.set_key("context.device_target", device_target)
        if save_config:
            self.config("predict").dump(Path(self._values.get("output_dir") or "output") / "trainer_config.yaml")

    def config(self, run_mode: str, **changes: Any) -> RunConfig:
        """The checked configuration of a run mode, as it would be used now.

        Raises:
            ConfigErrors: every fault in it.
        """
        values = merge(self._values, {"run_mode": run_mode})
        for key, value in changes.items():
            if value is not None:
                values = merge(values, nest([(key.replace("__", "."), value)]))
        return make_config(values, source="Trainer")

    def train(
        self,
        train_checkpoint: str | bool | None = False,
        resume_training: bool | str | None = None,
        auto_trans_ckpt: bool | None = None,
        do_eval: bool | None = None,
    ) -> TrainState:
        """Trains; `train_checkpoint` names the weights to start from, True the newest of the output folder."""
        return self._run("train", train_checkpoint, resume_training, auto_trans_ckpt, do_eval)

    def finetune(
        self,
        finetune_checkpoint: str | bool | None = False,
        resume_training: bool | str | None = None,
        auto_trans_ckpt: bool | None = None,
        do_eval: bool | None = None,
    ) -> TrainState:
        """Fine-tunes; arguments as for `train`."""
        return self._run("finetune", finetune_checkpoint, resume_training, auto_trans_ckpt, do_eval)

    def evaluate(
        self, eval_checkpoint: str | bool | None = False, auto_trans_ckpt: bool | None = None
    ) -> dict[str, float]:
        """The metric's figures over the evaluation data."""
        return self._run("eval", eval_checkpoint, None, auto_trans_ckpt)

    def predict(
        self,
        predict_checkpoint: str | bool | None = None,
        auto_trans_ckpt: bool | None = None,
        input_data: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> list[dict[str, list[str]]]:
        """A result for each prompt; `settings` are generation settings such as max_length and top_k."""
        changes = {f"model__model_config__{name}": value for name, value in settings.items()}
        prompts = input_data if input_data is None or isinstance(input_data, str) else list(input_data)
        return self._run(
            "predict",
            predict_checkpoint,
            None,
            auto_trans_ckpt,
            input_data=prompts,
            predict_batch_size=batch_size,
            **changes,
        )

    def export(self, predict_checkpoint: str | bool | None = None, auto_trans_ckpt: bool | None = None) -> Any:
        """The exported graphs of the network."""
        return self._run("export", predict_checkpoint, None, auto_trans_ckpt)

    def set_parallel_config(self, **sizes: Any) -> None:
        """Sets keys of `parallel_config`, such as data_parallel=2."""
        self._values = merge(self._values, {"parallel_config": sizes})

    def set_recompute_config(self, **choices: Any) -> None:
        """Sets keys of `recompute_config`, such as recompute=True."""
        self._values = merge(self._values, {"recompute_config": choices})

    def get_train_dataloader(self) -> TokenDataset:
        """The training data, as batches."""
        return self._trainer(self.config("train", allow_random_weights=True)).train_dataset

    def get_eval_dataloader(self) -> TokenDataset:
        """The evaluation data, as batches."""
        return self._trainer(self.config("eval", allow_random_weights=True)).eval_dataset

    def get_last_checkpoint(self) -> str | None:
        """The newest complete checkpoint in the output folder, None where there is none."""
        root = Path(self._values.get("output_dir") or "output")
        try:
            return str(resume_file(root, rank=runtime.rank(), rank_size=runtime.rank_size()))
        except CheckpointError:
            return None

    def _run(
        self,
        mode: str,
        checkpoint: str | bool | None,
        resume_training: bool | str | None,
        auto_trans_ckpt: bool | None,
        do_eval: bool | None = None,
        **changes: Any,
    ) -> Any:
        if checkpoint is True:
            checkpoint = self.get_last_checkpoint()
            if checkpoint is None:
                raise ConfigError("checkpoint", True, "No checkpoint is in the output folder yet: train first.")
        if self._parts["network"] is not None:
            changes["allow_random_weights"] = True  # the weights are the network's own
        config = self.config(
            mode,
            load_checkpoint=checkpoint or None,
            resume_training=resume_training,
            auto_trans_ckpt=auto_trans_ckpt,
            do_eval=do_eval,
            **changes,
        )
        prepare(config)
        return getattr(self._trainer(config), _MODES[mode])()

    def _trainer(self, config: RunConfig) -> Any:
        return TRAINERS.get(config.trainer.type, "trainer.type")(config, **self._parts)

    def set_key(self, key: str, value: Any) -> None:
        """Sets one key of the configuration, such as `runner_config.epochs`, for the runs that follow."""
        self._values = merge(self._values, nest([(key, value)]))


def _base_values(args: Any, name: str | None, pet_method: str) -> dict[str, Any]:
    """The keys of the file that `args` or the model's name stands for, with TrainingArguments over them."""
    if isinstance(args, (str, os.PathLike)):
        return read_yaml(Path(args))
    if isinstance(args, RunConfig):
        return args.to_dict()
    if isinstance(args, Mapping):
        return dict(args)
    if name is None:
        fix = "Name a registered model, or give a YAML file as args."
        raise ConfigError("model", None, fix)
    if not isinstance(pet_method, str):
        raise ConfigError("pet_method", pet_method, "Give 'lora', or leave it out.")
    full = f"{name}_{pet_method}" if pet_method and not name.endswith(pet_method) else name
    values = read_yaml(CONFIGS_DIR / model_name(full, "model").yaml)
    if args is None:
        return values
    if not isinstance(args, TrainingArguments):
        raise ConfigError("args", args, "Give a YAML file, a mapping, or TrainingArguments.")
    return args.applied(values)


def _with_types(values: Mapping[str, Any], **types: str | None) -> dict[str, Any]:
    """The values with another class for some components, which keep the arguments that all of their kind have."""
    changed = dict(values)
    for section, name in types.items():
        old = changed.get(section) or {}
        if name is not None and name != old.get("type"):
            changed[section] = {"type": name, **{key: old[key] for key in _SHARED_KEYS if key in old}}
    return changed


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
