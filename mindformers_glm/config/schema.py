"""Every key a run's YAML may hold, with type, default and the sections that each run mode needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field

from mindformers_glm.config.bounds import fullwidth_hint
from mindformers_glm.config.section import SectionModel, plain
from mindformers_glm.config.sections import (
    ContextSection,
    Count,
    EvalTaskSection,
    InferSection,
    Interval,
    MoeSection,
    Natural,
    ParallelSection,
    ParallelSizesSection,
    QuantizationSection,
    RecomputeSection,
    RunnerSection,
    TrainerSection,
)
from mindformers_glm.config.spec import Spec, named
from mindformers_glm.errors import ConfigError, nearest
from mindformers_glm.registry import sentence, unknown_key

RunMode = Literal["train", "finetune", "eval", "predict", "export"]
_MANY = 30  # a list of more keys than this helps nobody
_OF_COMPONENTS = (  # keys of components that are often written in the wrong place
    "lr_schedule.learning_rate",
    "lr_schedule.warmup_steps",
    "optimizer.weight_decay",
    "model.model_config.seq_length",
    "model.model_config.num_layers",
    "model.model_config.use_past",
    "model.model_config.pet_config",
    "train_dataset.data_loader.dataset_dir",
    "processor.tokenizer.vocab_file",
    "runner_wrapper.use_clip_grad",
    "callbacks.1.save_checkpoint_steps",
)
REQUIRED = {
    "train": ("model", "train_dataset", "train_dataset_task", "runner_config", "optimizer"),
    "finetune": ("model", "train_dataset", "train_dataset_task", "runner_config", "optimizer"),
    "eval": ("model", "eval_dataset", "eval_dataset_task", "metric"),
    "predict": ("model",),
    "export": ("model",),
}


def _text_or_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ModelSection(SectionModel):
    """`model`: shape and class of the network. The field is called `config` because pydantic owns the other name."""

    config: Spec = Field(alias="model_config")
    arch: Spec


class DatasetSection(SectionModel):
    """`train_dataset` and `eval_dataset`: keys of MindFormers. What the dataset class takes beside: components.py."""

    model_config = ConfigDict(extra="allow")  # keys that the dataset class itself takes

    data_loader: Spec
    tokenizer: Spec | None = None
    input_columns: Annotated[list[str], BeforeValidator(_text_or_list)] | None = None
    max_source_length: Count | None = None
    max_target_length: Count | None = None
    max_seq_length: Count | None = None
    ignore_pad_token_for_loss: bool = True
    label_convention: Annotated[Literal["1.0", "0.8"], BeforeValidator(str)] = "1.0"
    num_parallel_workers: Count | None = None
    python_multiprocessing: bool = False
    drop_remainder: bool = True
    batch_size: Count | None = None
    repeat: Count = 1
    numa_enable: bool = False
    prefetch_size: Count | None = None
    seed: Natural | None = None
    auto_tune: bool = False
    filepath_prefix: str | None = None
    autotune_per_step: Count | None = None
    profile: bool = False
    do_eval: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that were given, components as Specs; what was not is left to the dataset class."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {**given, **(self.model_extra or {})}

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {key: plain(value) for key, value in self.arguments.items()}


class DatasetTaskSection(SectionModel):
    """`train_dataset_task` and `eval_dataset_task`: the class that makes samples of a dataset's lines."""

    type: str = "KeyWordGenDataset"
    dataset_config: dict[str, Any] | None = None  # the loader moves it to the dataset's own section


class RunSchema(SectionModel):
    """The whole file."""

    # the run
    run_mode: RunMode = "train"
    seed: Natural = 0
    output_dir: str = "./output"
    load_checkpoint: str | None = None
    allow_random_weights: bool = False
    resume_training: bool | str = False
    resume_by_last_timestamp_ckpt: bool = False
    resume_gap_time: Natural | None = None
    resume_limit_time: Natural | None = None
    ignore_data_skip: bool = False
    data_skip_steps: Natural | None = None
    do_eval: bool = False
    eval_step_interval: Interval = 100
    eval_epoch_interval: Interval = -1
    load_best_at_end: bool = False
    neftune_noise_alpha: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    freeze_first_layers: Natural = 0
    freeze_include: Annotated[list[str], BeforeValidator(_text_or_list)] = []
    freeze_exclude: Annotated[list[str], BeforeValidator(_text_or_list)] = []
    trainer: TrainerSection = Field(default_factory=TrainerSection)
    runner_config: RunnerSection = Field(default_factory=RunnerSection)
    # components
    model: ModelSection | None = None
    quantization: QuantizationSection | None = None
    processor: Spec | None = None
    metric: Spec | tuple[Spec, ...] | None = None
    train_dataset: DatasetSection | None = None
    train_dataset_task: DatasetTaskSection | None = None
    eval_dataset: DatasetSection | None = None
    eval_dataset_task: DatasetTaskSection | None = None
    eval_task: EvalTaskSection | None = None
    optimizer: Spec | None = None
    lr_schedule: Spec | None = None
    runner_wrapper: Spec | None = None
    callbacks: tuple[Spec, ...] = ()
    eval_callbacks: tuple[Spec, ...] = ()
    report_to: Annotated[tuple[Spec, ...], BeforeValidator(named)] = ()
    # predict and export
    input_data: str | list[str] | None = None
    predict_batch_size: Count | None = None
    model_name: str | None = None
    top_k: Natural | None = None
    save_file: str | None = None
    adapter_id: str | None = None
    modal_type: str | list[str] | None = None
    infer: InferSection | None = None
    # the device, and several of them
    context: ContextSection = Field(default_factory=ContextSection)
    use_parallel: bool = False
    parallel: ParallelSection = Field(default_factory=ParallelSection)
    parallel_config: ParallelSizesSection = Field(default_factory=ParallelSizesSection)
    recompute_config: RecomputeSection = Field(default_factory=RecomputeSection)
    micro_batch_interleave_num: Count = 1
    auto_trans_ckpt: bool = False
    src_strategy_path_or_dir: str | None = None
    only_save_strategy: bool = False
    transform_process_num: Count = 1
    load_ckpt_format: Literal["ckpt", "safetensors"] | None = None
    pretrained_model_dir: str | None = None
    use_legacy: bool | None = None
    lr_scale: bool = False
    lr_scale_factor: Count = 256
    # users' own classes
    register_path: str | None = None
    # accepted without effect: see legacy.py
    remote_save_url: str | None = None
    moe_config: MoeSection | None = None
    layer_scale: bool = False
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    auto_tune: bool = False
    filepath_prefix: str | None = None
    autotune_per_step: Count | None = None
    profile: bool = False
    profile_start_step: Natural | None = None
    profile_stop_step: Natural | None = None
    init_start_profile: bool = False
    profile_communication: bool = False
    profile_memory: bool = True
    profile_level: Interval | None = None
    trust_remote_code: bool = False
    train_precision_sync: bool | None = None
    infer_precision_sync: bool | None = None
    print_separate_loss: bool | None = None
    monitor_config: dict[str, Any] | None = None
    swap_config: dict[str, Any] | None = None
    remove_redundancy: bool = False
    use_graceful_exit: bool = False
    check_for_nan_in_loss_and_grad: bool = False


def known_keys(model: type[pydantic.BaseModel] = RunSchema) -> list[str]:
    """The keys of one section as they stand in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def schema_keys(model: type[pydantic.BaseModel] = RunSchema, above: str = "") -> list[str]:
    """Every dotted key of the schema, components excepted."""
    keys = []
    for name, field in model.model_fields.items():
        key = f"{above}{field.alias or name}"
        inner = _section_of(field.annotation)
        keys += [key, *schema_keys(inner, f"{key}.")] if inner else [key]
    return keys


def section_of(path: tuple[str | int, ...]) -> type[pydantic.BaseModel] | None:
    """The model that describes the mapping at `path`, None for a component or a plain value."""
    model: type[pydantic.BaseModel] | None = RunSchema
    for part in path:
        if model is None:
            return None
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _section_of(fields[part].annotation) if part in fields else None
    return model


def check_schema(values: Mapping[str, Any]) -> tuple[RunSchema | None, list[ConfigError]]:
    """The typed file, or None and every fault in it."""
    try:
        return RunSchema.model_validate(_given(values, RunSchema)), []
    except pydantic.ValidationError as error:
        return None, _faults(error)


def _given(values: Mapping[str, Any], model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """Without the known keys whose value is null: they keep their default, as if they were not written."""
    fields = {field.alias or name: _section_of(field.annotation) for name, field in model.model_fields.items()}
    given = {}
    for key, value in values.items():
        if value is None and key in fields:
            continue
        inner = fields.get(key)
        given[key] = _given(value, inner) if inner and isinstance(value, Mapping) else value
    return given


def _faults(error: pydantic.ValidationError) -> list[ConfigError]:
    faults: dict[str, ConfigError] = {}
    for item in error.errors():
        location = _plain_location(item["loc"])
        key, got = ".".join(str(part) for part in location), item["input"]
        if item["type"] == "extra_forbidden":
            fault = _unknown(key, got, known_keys(section_of(location[:-1]) or RunSchema))
        elif item["type"] == "missing":
            fault = ConfigError(key, None, "This key must be given.")
        else:
            fault = ConfigError(key, got, sentence(item["msg"]) + _likely(item))
        if key in faults and fault.fix not in faults[key].fix:  # the other members of a union
            fault = ConfigError(key, got, f"{faults[key].fix.rstrip('.')}, or: {fault.fix}")
        faults[key] = fault
    return list(faults.values())


def _unknown(key: str, got: Any, known: list[str]) -> ConfigError:
    """The fault of a key that its section does not know: a similar one beside it, or the same one elsewhere."""
    leaf = key.rpartition(".")[2]
    keys = (*schema_keys(), *_OF_COMPONENTS)
    elsewhere = [name for name in keys if name.rpartition(".")[2] == leaf and name != key]
    near = nearest(leaf, known)
    if not elsewhere and (near or len(known) <= _MANY):
        return unknown_key(key, got, known)
    hint = f"Did you mean {' or '.join(elsewhere[:3])}?" if elsewhere else "No key of this section resembles it."
    return ConfigError(key, got, f"Unknown key. {hint}")


def _likely(item: Any) -> str:
    """The choice that a misspelt word resembles, as a sentence after the fault."""
    if item["type"] != "literal_error" or not isinstance(item["input"], str):
        return fullwidth_hint(item["input"], 0) if isinstance(item["input"], str) else ""
    choices = [word.strip("'") for word in re.findall(r"'[^']*'", item["ctx"]["expected"])]
    known = {choice.lower(): choice for choice in choices}
    near = nearest(item["input"].lower(), known)
    return f" Did you mean {known[near[0]]!r}?" if near else ""


def _plain_location(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The place in the file: pydantic's own marks for the members of a union are left out."""
    kept: list[str | int] = []
    for part in location:
        section = section_of(tuple(kept))
        names = known_keys(section) if section else []
        is_mark = isinstance(part, str) and (part in ("bool", "int", "str", "float") or "[" in part)
        if part in names or not is_mark:
            kept.append(part)
    return tuple(kept)


def _section_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, pydantic.BaseModel)), None)
