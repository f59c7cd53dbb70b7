"""What must hold between values of different sections. Every rule says the numbers it saw and the repair."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mindformers_glm import runtime
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.schema import REQUIRED
from mindformers_glm.errors import ConfigError

Values = Mapping[str, Any]
Rule = Callable[[Values], list[ConfigError]]
TRAINING = ("train", "finetune")
GENERATING_METRICS = ("ADGENMetric", "EmF1Metric", "ChrfMetric", "SacreBleuMetric", "ExactMatchMetric")


def check_rules(values: Values) -> list[ConfigError]:
    """Every contradiction in the file, in the order of RULES."""
    return [fault for rule in RULES for fault in rule(values)]


def required_sections(values: Values) -> list[ConfigError]:
    """The sections that the run mode needs are there."""
    mode = values.get("run_mode")
    needed = list(REQUIRED.get(mode, ())) if isinstance(mode, str) else []
    benchmarks = values.get("eval_task") is not None
    if mode == "eval" and benchmarks:
        needed = ["model"]
    if mode in TRAINING and values.get("do_eval") and not benchmarks:
        needed += [name for name in REQUIRED["eval"] if name not in needed]
    reason = f"run_mode {mode}" + (" with do_eval" if values.get("do_eval") and mode in TRAINING else "")
    return [
        ConfigError(name, None, f"{reason} needs this section. Copy it from a file in configs/.")
        for name in needed
        if values.get(name) is None
    ]


def heads_and_groups(values: Values) -> list[ConfigError]:
    """Query heads are divided evenly among key-value groups."""
    config = lookup(values, "model.model_config")
    heads, groups = _whole(config, "num_attention_heads"), _whole(config, "multi_query_group_num")
    if (
        heads is None
        or groups is None
        or config.get("multi_query_attention") is False
        or (groups and not heads % groups)
    ):
        return []
    return [
        ConfigError(
            "model.model_config.multi_query_group_num",
            groups,
            f"It must divide num_attention_heads ({heads}): use one of {_divisors(heads)}.",
        )
    ]


def training_length(values: Values) -> list[ConfigError]:
    """seq_length is what KeyWordGenDataset makes: max_source_length + max_target_length + 1.

    MindFormers' evaluation files say `run_mode: train` with shorter rows and are started with `--run_mode eval`; they
    must load. One is known by `use_past: True`, or in 0.7 by a seq_length that is the length of evaluation prompts.
    """
    if values.get("run_mode") not in TRAINING or not _makes_keyword_rows(values, "train_dataset"):
        return []
    rows, length = _row_length(values, "train_dataset"), _seq_length(values)
    prompts = values.get("run_mode") == "train" and _whole(values.get("eval_dataset"), "max_source_length") == length
    evaluates = lookup(values, "model.model_config.use_past") is True or prompts
    if evaluates and rows is not None and length is not None and rows <= length:
        return []
    return _length_fault(values, "train_dataset")


def conversation_length(values: Values) -> list[ConfigError]:
    """Conversations, which MultiTurnDataset pads to max_seq_length, fit in the network."""
    rows, length = _whole(values.get("train_dataset"), "max_seq_length"), _seq_length(values)
    if values.get("run_mode") not in TRAINING or rows is None or length is None or rows <= length:
        return []
    fix = f"It must not exceed model.model_config.seq_length ({length}). Set it to {length}, or seq_length to {rows}."
    return [ConfigError("train_dataset.max_seq_length", rows, fix)]


def evaluation_length(values: Values) -> list[ConfigError]:
    """Prompts fit for a generated metric, prompts with their answers for a loss."""
    mode = values.get("run_mode")
    if values.get("eval_task") is not None or (mode != "eval" and not (mode in TRAINING and values.get("do_eval"))):
        return []
    if not _makes_keyword_rows(values, "eval_dataset"):
        return []
    names = [lookup(spec, "type") for spec in _metrics(values)]
    if "PerplexityMetric" in names:
        return _length_fault(values, "eval_dataset", metric="PerplexityMetric")
    source, length = _whole(values.get("eval_dataset"), "max_source_length"), _seq_length(values)
    if source is None or length is None or source <= length or not set(names) & set(GENERATING_METRICS):
        return []
    return [
        ConfigError(
            "eval_dataset.max_source_length",
            source,
            f"Prompts are padded to it and must fit in model.model_config.seq_length ({length}). "
            f"Set max_source_length to {length} or less, or seq_length to {source}.",
        )
    ]


def weights_named(values: Values) -> list[ConfigError]:
    """A run says where its weights come from, or that random ones are wanted."""
    mode = values.get("run_mode")
    if not isinstance(mode, str) or mode not in REQUIRED:
        return []
    if values.get("load_checkpoint") or values.get("allow_random_weights") or values.get("resume_training"):
        return []
    if mode == "finetune":
        fix = "run_mode finetune starts from weights: name a model, file or folder, or use run_mode train."
        return [ConfigError("load_checkpoint", values.get("load_checkpoint"), fix)]
    if lookup(values, "model.model_config.checkpoint_name_or_path"):
        return []
    fix = f"run_mode {mode} needs weights: name a model, file or folder, or set allow_random_weights: True."
    return [ConfigError("load_checkpoint", values.get("load_checkpoint"), fix)]


def rates(values: Values) -> list[ConfigError]:
    """There is a learning rate, and it falls."""
    if values.get("run_mode") not in TRAINING or not isinstance(values.get("optimizer"), Mapping):
        return []
    schedule, own = values.get("lr_schedule"), lookup(values, "optimizer.learning_rate")
    if schedule is None and own is None:
        fix = "Give lr_schedule, or optimizer.learning_rate."
        return [ConfigError("lr_schedule", None, fix)]
    key, spec = rate_of(values)
    if not isinstance(spec, Mapping):
        return []
    rate, end = _number(spec, "learning_rate"), _number(spec, "lr_end")
    if rate is None or end is None or rate <= 0 or end <= rate or "constant" in str(spec.get("type", "")).lower():
        return []
    return [ConfigError(f"{key}.lr_end", end, f"It must not be above {key}.learning_rate ({rate:g}).")]


def rate_of(values: Values) -> tuple[str, Any]:
    """The key that says the learning rate, and what stands there: `optimizer.learning_rate` wins over `lr_schedule`."""
    own = lookup(values, "optimizer.learning_rate")
    return ("optimizer.learning_rate", own) if own is not None else ("lr_schedule", values.get("lr_schedule"))


def scaled_rate(values: Values) -> list[ConfigError]:
    """The rate is written as it is used; `lr_scale` multiplied it by devices and batch size out of sight."""
    if not values.get("lr_scale") or values.get("run_mode") not in TRAINING:
        return []
    rate, batch = _number(values.get("lr_schedule"), "learning_rate"), _whole(values.get("runner_config"), "batch_size")
    factor, count = _number(values, "lr_scale_factor") or 256, world_size() or 1
    shown = f": {rate * count * (batch or 1) / factor:g} for {count} device(s)" if rate is not None else ""
    fix = f"Write the scaled rate in lr_schedule.learning_rate{shown}, and leave lr_scale False."
    return [ConfigError("lr_scale", values["lr_scale"], fix)]


def warm_up(values: Values) -> list[ConfigError]:
    """Warm-up is shorter than the whole. How it lies to the length of the run is known once the data is read."""
    key, schedule = rate_of(values)
    if not isinstance(schedule, Mapping):
        return []
    warm, total = _whole(schedule, "warmup_steps"), _whole(schedule, "total_steps")
    if warm is None or total is None or total <= 0 or warm <= total or schedule.get("warmup_ratio") is not None:
        return []
    return [ConfigError(f"{key}.warmup_steps", warm, f"It must not exceed total_steps ({total}).")]


def sinking(values: Values) -> list[ConfigError]:
    """sink_size is a number of steps, or -1 for a whole epoch."""
    size = _whole(values.get("runner_config"), "sink_size")
    if size is None or size != 0:
        return []
    return [ConfigError("runner_config.sink_size", size, "Use a number of steps above 0, or -1 for a whole epoch.")]


def devices(values: Values) -> list[ConfigError]:
    """In semi-auto and auto mode the axes together make up the processes that were started."""
    world = world_size()
    if not values.get("use_parallel") or world is None or lookup(values, "parallel.parallel_mode") not in (1, 2):
        return []
    sizes = values.get("parallel_config")
    names = ("data_parallel", "model_parallel", "pipeline_stage", "context_parallel")
    axes = {name: _whole(sizes, name) or 1 for name in names}
    product = math.prod(axes.values())
    if product == world:
        return []
    shown = " x ".join(f"{name} {size}" for name, size in axes.items() if size > 1 or name != names[-1])
    rest = product // axes["data_parallel"]
    repair = f" Set data_parallel to {world // rest}." if rest and world % rest == 0 else ""
    fix = f"{shown} = {product}, and {world} processes were started: the two must be equal.{repair}"
    return [ConfigError("parallel_config.data_parallel", axes["data_parallel"], fix)]


def micro_batches(values: Values) -> list[ConfigError]:
    """A pipeline needs at least as many micro batches as stages."""
    sizes = values.get("parallel_config")
    stages, batches = _whole(sizes, "pipeline_stage") or 1, _whole(sizes, "micro_batch_num") or 1
    if not values.get("use_parallel") or batches >= stages:
        return []
    fix = f"It must be at least pipeline_stage ({stages})."
    return [ConfigError("parallel_config.micro_batch_num", batches, fix)]


def exported_length(values: Values) -> list[ConfigError]:
    """The exported graph is as long as the network."""
    length, asked = _seq_length(values), _whole(values.get("infer"), "infer_seq_length")
    if values.get("run_mode") != "export" or length is None or asked is None or asked == length:
        return []
    fix = f"It must equal model.model_config.seq_length ({length}). Change one of the two."
    return [ConfigError("infer.infer_seq_length", asked, fix)]


def quantised_use(values: Values) -> list[ConfigError]:
    """Integer weights are for inference, and for LoRA on them in one process or on data ranks."""
    scheme = lookup(values, "model.model_config.quantization_scheme")
    bits, mode = scheme or lookup(values, "model.model_config.quantization_bit"), values.get("run_mode")
    if not bits or mode not in TRAINING:
        return []
    pet = lookup(values, "model.model_config.pet_config")
    kind = str(pet.get("pet_type", "lora")).lower() if isinstance(pet, Mapping) else None
    fix = "Integers are not trained: add model.model_config.pet_config (LoRA on them, QLoRA), or use 0."
    sizes = values.get("parallel_config") if values.get("use_parallel") else None
    if kind == "lora" and lookup(values, "model.model_config.quantization_bit"):
        divided = [key for key in ("model_parallel", "pipeline_stage") if (_whole(sizes, key) or 1) > 1]
        if not divided:
            return []
        fix = f"Integer weights are not divided: set parallel_config.{divided[0]}: 1."
    key = "quantization.bits" if values.get("quantization") else "model.model_config.quantization_bit"
    key = key.replace(".bits", ".scheme").replace("_bit", "_scheme") if scheme else key
    return [ConfigError(key, bits, fix)]


def world_size() -> int | None:
    """How many processes a launcher started, from its environment; None when there was no launcher."""
    return runtime.started_processes()


RULES: tuple[Rule, ...] = (
    required_sections,
    heads_and_groups,
    training_length,
    conversation_length,
    evaluation_length,
    weights_named,
    rates,
    scaled_rate,
    warm_up,
    sinking,
    devices,
    micro_batches,
    exported_length,
    quantised_use,
)


def _length_fault(values: Values, dataset: str, *, metric: str = "") -> list[ConfigError]:
    rows, length = _row_length(values, dataset), _seq_length(values)
    if rows is None or length is None or rows == length or (metric and rows < length):
        return []
    source, target = (_whole(values[dataset], f"max_{side}_length") or 0 for side in ("source", "target"))
    cause = f" ({metric} compares rows of this length)" if metric else ""
    relation, repair = "be at least" if metric else "equal", f"Set seq_length to {rows}"
    if length - source - 1 > 0:
        repair += f", or max_target_length to {length - source - 1}"
    fix = (
        f"It must {relation} {dataset}.max_source_length + max_target_length + 1 = "
        f"{source} + {target} + 1 = {rows}{cause}. {repair}."
    )
    return [ConfigError("model.model_config.seq_length", length, fix)]


def _row_length(values: Values, dataset: str) -> int | None:
    section = values.get(dataset)
    source, target = _whole(section, "max_source_length"), _whole(section, "max_target_length")
    return None if source is None or target is None else source + target + 1


def _seq_length(values: Values) -> int | None:
    return _whole(lookup(values, "model.model_config"), "seq_length")


def _makes_keyword_rows(values: Values, dataset: str) -> bool:
    kind = lookup(values, f"{dataset}_task.type") or "KeyWordGenDataset"
    return kind == "KeyWordGenDataset" and lookup(values, f"{dataset}.data_loader.type") != "MindDataset"


def _metrics(values: Values) -> list[Any]:
    metric = values.get("metric")
    return metric if isinstance(metric, list) else [metric]


def _number(section: Any, key: str) -> float | None:
    value = section.get(key) if isinstance(section, Mapping) else None
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(section: Any, key: str) -> int | None:
    number = _number(section, key)
    return int(number) if number is not None and number == int(number) else None


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
