"""Sections of the YAML about the device, several devices, and the course of a run: their keys, types and defaults."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mindformers_glm.config.ranges import MOST
from mindformers_glm.config.section import RecomputeKeys, SectionModel

_PARALLEL_MODES = ("data_parallel", "semi_auto_parallel", "auto_parallel", "hybrid_parallel")


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and not value.isascii()):
        raise ValueError("Expected a number")
    return value


def _mode(value: Any) -> Any:
    names = {"graph_mode": 0, "graph": 0, "pynative_mode": 1, "pynative": 1}
    return names.get(value.lower(), value) if isinstance(value, str) else value


def _device(value: Any) -> Any:
    names = {"cpu": "CPU", "ascend": "Ascend"}
    return names.get(value.lower(), value) if isinstance(value, str) else value


def _parallel_mode(value: Any) -> Any:
    name = value.lower() if isinstance(value, str) else value
    if name in ("stand_alone", "manual_parallel"):  # the second: layers that know their ranks, as all do here
        return 0 if name == "stand_alone" else 1
    return _PARALLEL_MODES.index(name) if name in _PARALLEL_MODES else value


def _product(value: Any) -> Any:
    """8*12, as documents write 12 servers of 8 devices, multiplied."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,6}(\s*\*\s*\d{1,6})+\s*", value):
        return math.prod(int(factor) for factor in value.split("*"))
    return value


Count = Annotated[int, Field(ge=1, le=MOST), BeforeValidator(_not_a_switch)]
Natural = Annotated[int, Field(ge=0, le=MOST), BeforeValidator(_not_a_switch)]
Interval = Annotated[int, Field(ge=-1, le=MOST), BeforeValidator(_not_a_switch)]  # 0 and -1: never
SinkSize = Annotated[int, Field(ge=-1, le=MOST), BeforeValidator(_not_a_switch)]


class ContextSection(SectionModel):
    """`context`: the device and how MindSpore drives it."""

    mode: Annotated[Literal[0, 1], BeforeValidator(_mode)] = 0  # 0 graph, 1 PyNative
    device_target: Annotated[Literal["CPU", "Ascend"], BeforeValidator(_device)] = "CPU"
    device_id: Natural = 0
    max_call_depth: Count | None = None
    max_device_memory: str | None = None
    save_graphs: bool | int = False
    save_graphs_path: str | None = None
    enable_graph_kernel: bool = False
    graph_kernel_flags: str | None = None
    enable_dump: bool = False
    save_dump_path: str | None = None
    enable_compile_cache: bool = False
    compile_cache_path: str | None = None
    memory_optimize_level: str | None = None
    mempool_block_size: str | None = None
    deterministic: str | None = None
    jit_level: str | None = None
    jit_config: dict[str, Any] | None = None
    ascend_config: dict[str, Any] | None = None
    runtime_num_threads: Count | None = None
    affinity_cpu_list: Any = None
    pynative_synchronize: bool = False


class RunnerSection(SectionModel):
    """`runner_config`: how long and in what portions a run goes."""

    epochs: Count = 1
    max_steps: Count | None = None
    batch_size: Count = 1
    sink_mode: bool = False
    sink_size: SinkSize = 1
    sink_per_epoch: bool | None = None
    gradient_accumulation_steps: Count = 1
    num_classes: Count | None = None
    image_size: Any = None
    initial_epoch: Natural = 0
    initial_step: Natural = 0
    origin_epochs: Count | None = None


class StrategySection(SectionModel):
    """`parallel.strategy_ckpt_config`: where the sharding strategy is written."""

    save_file: str | None = None
    load_file: str | None = None
    only_trainable_params: bool = True


class ParallelSection(SectionModel):
    """`parallel`: the kind of parallelism."""

    parallel_mode: Annotated[Literal[0, 1, 2, 3], BeforeValidator(_parallel_mode)] = 0
    gradients_mean: bool = False
    loss_repeated_mean: bool = True
    enable_alltoall: bool = False
    full_batch: bool = False
    dataset_strategy: Any = None
    search_mode: str | None = None
    enable_parallel_optimizer: bool = False
    zero_level: Literal[0, 1, 2, 3] | None = None
    fsdp: str | None = None
    overlap_grad_reduce: bool = True
    parallel_optimizer_config: dict[str, Any] | None = None
    parallel_optimizer_threshold: Natural | None = None
    strategy_ckpt_config: StrategySection = Field(default_factory=StrategySection)
    strategy_ckpt_save_file: str | None = None
    strategy_ckpt_load_file: str | None = None
    pipeline_config: dict[str, Any] | None = None
    comm_fusion: dict[str, Any] | None = None
    device_num: Annotated[Count | None, BeforeValidator(_product)] = None
    pipeline_stages: Count | None = None
    auto_pipeline: bool = False


class ParallelSizesSection(SectionModel):
    """`parallel_config`: how many ways the work is divided along each axis."""

    data_parallel: Count = 1
    model_parallel: Count = 1
    pipeline_stage: Count = 1
    expert_parallel: Count = 1
    context_parallel: Count = 1
    micro_batch_num: Count = 1
    vocab_emb_dp: bool = True
    gradient_aggregation_group: Count = 4
    use_seq_parallel: bool = False
    optimizer_shard: bool | None = None
    mem_coeff: Annotated[float, Field(gt=0)] | None = None
    seq_split_num: Count = 1
    micro_batch_interleave_num: Count = 1


class RecomputeSection(RecomputeKeys):
    """`recompute_config`: which activations are computed again in the backward pass."""

    select_comm_recompute: bool | list[Any] | None = None
    select_recompute_exclude: bool | list[Any] | None = None


class MoeSection(SectionModel):
    """`moe_config`: present in every MindFormers file; GLM2 and GLM3 have no experts."""

    expert_num: Count = 1
    capacity_factor: Annotated[float, Field(gt=0)] = 1.05
    aux_loss_factor: Annotated[float, Field(ge=0)] = 0.05
    num_experts_chosen: Count = 1
    routing_policy: str | None = None
    enable_sdrop: bool | None = None
    router_dense_type: str | None = None


class TrainerSection(SectionModel):
    """`trainer`: the class that runs the task, and the registered name of the model."""

    type: str = "CausalLanguageModelingTrainer"
    model_name: str | None = None


class InferSection(SectionModel):
    """`infer`: the exported graphs and the runtime that reads them.

    `dynamic`: one graph of any length. `merge_lora`: LoRA becomes part of the weights; otherwise it stays in the graph.
    `for_lite_2_0`: a graph that MindSpore Lite 2.0 can read besides.
    """

    prefill_model_path: str | None = None
    increment_model_path: str | None = None
    infer_seq_length: Count | None = None
    model_type: Literal["mindir", "mindir_lite"] = "mindir"
    model_name: str | None = None
    ge_config_path: str | None = None
    target: str | None = None
    device_id: Natural = 0
    rank_id: Natural = 0
    dynamic: bool = False
    merge_lora: bool = False
    for_lite_2_0: bool = True
    paged_attention: bool = False
    pa_block_size: Count = 16
    pa_num_blocks: Count = 512


class QuantizationSection(SectionModel):
    """`quantization`: weights of the linear layers as integers, for inference."""

    bits: Literal[0, 4, 8] = 8
    group_size: Literal[0, 16, 32, 64, 128] | None = None
    scheme: str | None = None
    head_bits: Literal[0, 4, 8] = 8
    embedding_bits: Literal[0, 4, 8] = 0
    weights: str | None = None


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_names), Field(min_length=1)]


class EvalTaskSection(SectionModel):
    """`eval_task`: benchmarks, instead of `eval_dataset` and a metric. The words are those of `evaluate --tasks`."""

    tasks: Names
    data_dir: str | None = None
    subjects: Names | None = None
    way: Literal["lm-eval", "official", "chat", "modellink"] | None = None
    num_fewshot: Annotated[int, Field(ge=0, le=100), BeforeValidator(_not_a_switch)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024), BeforeValidator(_not_a_switch)] = 8
    limit: Count | None = None
    max_length: Count | None = None
