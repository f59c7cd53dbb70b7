"""Old keys and old spellings: what each means here, or why it means nothing.

`NO_EFFECT` is the one list of keys that are accepted and do nothing. A key is logged once, and only when its value
would have changed something in MindFormers. Keys of a dataset belong to its class: data/section.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mindformers_glm.errors import shorten

Values = Mapping[str, Any]


class NoEffect(NamedTuple):
    """A dotted key, when its value would have mattered, and why it does nothing here."""

    key: str
    matters: Callable[[Any, Values], bool]
    reason: str


def _true(value: Any, _: Values) -> bool:
    return bool(value)


def _never(value: Any, _: Values) -> bool:
    return False


def _above(limit: float) -> Callable[[Any, Values], bool]:
    return lambda value, _: isinstance(value, (int, float)) and value > limit


def _on_cpu(value: Any, values: Values) -> bool:
    return bool(value) and lookup(values, "context.device_target") == "CPU"


def _several_devices(value: Any, values: Values) -> bool:
    return bool(value) and bool(values.get("use_parallel")) and lookup(values, "parallel.parallel_mode") in (1, 2)


def _other_than(usual: Any) -> Callable[[Any, Values], bool]:
    return lambda value, _: value is not None and str(value).lower() != usual


def _real_callbacks(value: Any, _: Values) -> bool:
    """ObsMonitor, which uploads nothing here, stands in every file of MindFormers."""
    return any(lookup(item, "type") != "ObsMonitor" for item in value or [])


def _target_elsewhere(value: Any, values: Values) -> bool:
    return bool(value) and str(value).lower() != str(lookup(values, "context.device_target")).lower()


def _is_url(value: Any, _: Values) -> bool:
    return "://" in str(value or "")


_GRAPHS = "graph kernels are a compiler switch of Ascend; the operators of ops/ are chosen by device"
_TUNE = "the dataset pipeline is plain Python and has nothing to tune"
_RESUME = "resume_training takes the newest step that every rank has completed"
_SEMI = "tensor parallel layers are explicit here; no compiler searches for a strategy"

NO_EFFECT: tuple[NoEffect, ...] = (
    NoEffect("remote_save_url", _is_url, "uploading belongs to ModelArts; copy output_dir yourself"),
    NoEffect("moe_config.expert_num", _above(1), "ChatGLM2 and ChatGLM3 are dense"),
    NoEffect("moe_config.capacity_factor", _never, "as moe_config.expert_num"),
    NoEffect("moe_config.aux_loss_factor", _never, "as moe_config.expert_num"),
    NoEffect("moe_config.num_experts_chosen", _never, "as moe_config.expert_num"),
    NoEffect("moe_config.routing_policy", _never, "as moe_config.expert_num"),
    NoEffect("moe_config.enable_sdrop", _never, "as moe_config.expert_num"),
    NoEffect("moe_config.router_dense_type", _never, "as moe_config.expert_num"),
    NoEffect("layer_scale", _true, "layer-wise rates exist for vision models only, in MindFormers too"),
    NoEffect("layer_decay", _never, "as layer_scale"),
    NoEffect("auto_tune", _true, _TUNE),
    NoEffect("filepath_prefix", _never, "as auto_tune"),
    NoEffect("autotune_per_step", _never, "as auto_tune"),
    NoEffect("profile_level", _never, "the profiler has one level on a CPU"),
    NoEffect("trust_remote_code", _true, "code that comes with weights is never run"),
    NoEffect("train_precision_sync", _true, "results are deterministic on CPU; on Ascend set context.deterministic"),
    NoEffect("infer_precision_sync", _true, "results are deterministic on CPU; on Ascend set context.deterministic"),
    NoEffect("print_separate_loss", _true, "there is one loss"),
    NoEffect("monitor_config", _true, "the log line and SummaryMonitor show loss, scale, rate and gradient norm"),
    NoEffect("swap_config", _true, "activations are not moved to the host"),
    NoEffect("remove_redundancy", _true, "every rank writes its own shard only"),
    NoEffect("use_graceful_exit", _true, "Ctrl-C and SIGTERM always save first"),
    NoEffect("check_for_nan_in_loss_and_grad", _never, "always done"),
    NoEffect("adapter_id", _true, "one adapter is loaded, from load_checkpoint"),
    NoEffect("transform_process_num", _above(1), "tensors are re-sharded one after the other as they are read"),
    NoEffect("modal_type", _true, "there is one input, text"),
    NoEffect("top_k", _true, "a key of image classification; for text it is model.model_config.top_k"),
    NoEffect("resume_by_last_timestamp_ckpt", _true, _RESUME),
    NoEffect("resume_gap_time", _never, _RESUME),
    NoEffect("resume_limit_time", _never, _RESUME),
    NoEffect("ignore_data_skip", _true, "a resumed run goes on with the batch after the last one learned"),
    NoEffect("data_skip_steps", _true, "a resumed run goes on with the batch after the last one learned"),
    NoEffect(
        "auto_trans_ckpt", _true, "weights of any division are re-sharded for the run's own whenever they are loaded"
    ),
    NoEffect("trainer.model_name", _never, "a network comes from `model`, its weights from load_checkpoint"),
    NoEffect("eval_callbacks", _real_callbacks, "an evaluation has no callbacks; its figures are logged"),
    NoEffect("infer.target", _target_elsewhere, "the runtime that loads a graph chooses the device"),
    NoEffect("infer.model_name", _true, "exported files are named as prefill_model_path says"),
    NoEffect("infer.ge_config_path", _true, "give it to tools/run_infer_main.py, which loads the graphs"),
    NoEffect("infer.device_id", _above(0), "give it to tools/run_infer_main.py, which loads the graphs"),
    NoEffect("infer.rank_id", _above(0), "give it to tools/run_infer_main.py, which loads the graphs"),
    NoEffect("infer.paged_attention", _true, "exported graphs hold their own cache"),
    NoEffect("infer.pa_block_size", _never, "as infer.paged_attention"),
    NoEffect("infer.pa_num_blocks", _never, "as infer.paged_attention"),
    NoEffect("load_ckpt_format", _never, "the form of a checkpoint is recognised from its content"),
    NoEffect("use_legacy", _never, "one network stands for both"),
    NoEffect("micro_batch_interleave_num", _above(1), _SEMI),
    NoEffect("context.enable_graph_kernel", _true, _GRAPHS),
    NoEffect(
        "context.graph_kernel_flags", lambda value, v: bool(value and lookup(v, "context.enable_graph_kernel")), _GRAPHS
    ),
    NoEffect("context.max_device_memory", _never, "a limit for Ascend; the CPU takes what it needs"),
    NoEffect("context.save_graphs", _true, "set MS_DEV_SAVE_GRAPHS=1 in the environment instead"),
    NoEffect("context.save_graphs_path", _never, "as context.save_graphs"),
    NoEffect("context.enable_dump", _true, "set MINDSPORE_DUMP_CONFIG in the environment instead"),
    NoEffect("context.save_dump_path", _never, "as context.enable_dump"),
    NoEffect("context.memory_optimize_level", _on_cpu, "an Ascend setting"),
    NoEffect("context.mempool_block_size", _on_cpu, "an Ascend setting"),
    NoEffect("context.ascend_config", _on_cpu, "an Ascend setting"),
    NoEffect("context.jit_level", _on_cpu, "an Ascend setting"),
    NoEffect("context.jit_config", _on_cpu, "an Ascend setting"),
    NoEffect("context.affinity_cpu_list", _true, "bind processes with taskset or msrun --bind_core"),
    NoEffect("context.enable_compile_cache", _true, "set MS_COMPILER_CACHE_ENABLE=1 in the environment instead"),
    NoEffect("context.compile_cache_path", _never, "set MS_COMPILER_CACHE_PATH in the environment instead"),
    NoEffect("context.deterministic", _true, "results are deterministic on CPU; on Ascend set HCCL_DETERMINISTIC=true"),
    NoEffect("context.runtime_num_threads", _true, "set OMP_NUM_THREADS in the environment instead"),
    NoEffect("context.pynative_synchronize", _true, "a debugging switch; see mindspore.runtime.launch_blocking"),
    NoEffect("runner_config.initial_epoch", _above(0), "the position is in the checkpoint: resume_training: True"),
    NoEffect("runner_config.initial_step", _above(0), "the position is in the checkpoint: resume_training: True"),
    NoEffect("runner_config.origin_epochs", _never, "worked out from epochs"),
    NoEffect("runner_config.num_classes", _never, "a key of vision models"),
    NoEffect("runner_config.image_size", _never, "a key of vision models"),
    NoEffect("runner_config.sink_per_epoch", _never, "sink_size: -1 means the same"),
    NoEffect("parallel.gradients_mean", _never, "gradients are always those of the mean loss over all devices"),
    NoEffect("parallel.full_batch", _never, "every data-parallel part reads its own rows"),
    NoEffect("parallel.strategy_ckpt_config.save_file", _never, "strategies are written to <output_dir>/strategy"),
    NoEffect("parallel.strategy_ckpt_config.load_file", _several_devices, _SEMI),
    NoEffect("parallel.strategy_ckpt_config.only_trainable_params", _never, _SEMI),
    NoEffect("parallel.strategy_ckpt_save_file", _never, "strategies are written to <output_dir>/strategy"),
    NoEffect("parallel.strategy_ckpt_load_file", _several_devices, _SEMI),
    NoEffect("parallel.dataset_strategy", _several_devices, _SEMI),
    NoEffect("parallel.parallel_optimizer_config", _several_devices, _SEMI),
    NoEffect("parallel.parallel_optimizer_threshold", _several_devices, _SEMI),
    NoEffect("parallel.device_num", _never, "the launcher says how many processes there are"),
    NoEffect("parallel.pipeline_stages", _never, "parallel_config.pipeline_stage says it"),
    NoEffect("parallel.loss_repeated_mean", _never, _SEMI),
    NoEffect("parallel.enable_alltoall", _several_devices, _SEMI),
    NoEffect("parallel.search_mode", _never, _SEMI),
    NoEffect("parallel.auto_pipeline", _several_devices, _SEMI),
    NoEffect("parallel.comm_fusion", _several_devices, "gradients are reduced in buckets of 32 MB"),
    NoEffect("parallel_config.expert_parallel", _above(1), "ChatGLM2 and ChatGLM3 are dense"),
    NoEffect("parallel_config.seq_split_num", _above(1), "a sequence is not divided among processes"),
    NoEffect("parallel_config.gradient_aggregation_group", _never, "gradients are reduced in buckets of 32 MB"),
    NoEffect("parallel_config.vocab_emb_dp", _never, _SEMI),
    NoEffect("parallel_config.micro_batch_interleave_num", _above(1), _SEMI),
    NoEffect("parallel_config.mem_coeff", _never, _SEMI),
    NoEffect("recompute_config.parallel_optimizer_comm_recompute", _several_devices, _SEMI),
    NoEffect("recompute_config.mp_comm_recompute", _never, _SEMI),
    NoEffect("recompute_config.recompute_slice_activation", _never, _SEMI),
    NoEffect("recompute_config.select_comm_recompute", _several_devices, _SEMI),
    NoEffect("recompute_config.select_recompute_exclude", _true, "select_recompute has one pattern of operators"),
)

_PAGED = "kernels and graphs choose their own form of the cache"
_ONE_PIPELINE = "a pipeline is not interleaved"

MODEL_NO_EFFECT: tuple[NoEffect, ...] = (  # keys of model.model_config: ChatGLM2Config takes them
    NoEffect("auto_map", _true, "code that comes with weights is never run"),
    NoEffect("softmax_compute_type", _other_than("float32"), "softmax is always computed in float32"),
    NoEffect("use_paged_attention", _true, _PAGED),
    NoEffect("use_kvcache_op", _true, _PAGED),
    NoEffect("is_dynamic", _true, "graphs take any length"),
    NoEffect("is_flexible_shape", _true, "graphs take any length"),
    NoEffect("enable_high_performance", _true, "the fast form is always taken where it fits"),
    NoEffect("pp_interleave_num", _above(1), _ONE_PIPELINE),
    NoEffect("fine_grain_interleave", _above(1), _ONE_PIPELINE),
)
TOKENIZER_NO_EFFECT: tuple[NoEffect, ...] = (
    NoEffect("chat_template", _true, "messages are rendered as the model's own code does, not by a template"),
    NoEffect("auto_register", _true, "code that comes with weights is never run"),
)
TOKENIZER_PLACES = ("processor.tokenizer", "train_dataset.tokenizer", "eval_dataset.tokenizer")

# Spellings that are interface in MindFormers, and the correct ones that users may write: kind -> {written: meant}.
CALLBACK_KEYS = {
    "step_upload_frequency": "step_upload_frequence",
    "epoch_upload_frequency": "epoch_upload_frequence",
}

CLASSES = {  # research/glm32k gave the classes of ChatGLM3 a copy of their own; rope_ratio says what differs
    "ChatGLM32kConfig": "ChatGLM2Config",
    "ChatGLM32kForConditionalGeneration": "ChatGLM2ForConditionalGeneration",
    "ChatGLM32kTokenizer": "ChatGLM3Tokenizer",
}
_PLACES_OF_CLASSES = (
    "model.model_config", "model.arch", *TOKENIZER_PLACES,
)  # fmt: skip
LORA = {
    "pet_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "target_modules": ".*query_key_value*",
}
LORA_NETWORK, NETWORK = "ChatGLM2WithLora", "ChatGLM2ForConditionalGeneration"  # of 0.7; pet_config says it since

PROFILER = "ProfileMonitor"
PROFILER_KEYS = {  # key of the file -> argument of ProfileMonitor
    "profile_start_step": "start_step",
    "profile_stop_step": "stop_step",
    "init_start_profile": "start_profile",
    "profile_communication": "profile_communication",
    "profile_memory": "profile_memory",
}


def profiler_settings(values: Values) -> dict[str, Any]:
    """The arguments that `profile: True` and its companions give the callback ProfileMonitor."""
    return {name: values[key] for key, name in PROFILER_KEYS.items() if values.get(key) is not None}


def normalise(values: Values) -> dict[str, Any]:
    """The same file with the text 'None' as nothing and every accepted spelling in MindFormers' own."""
    plain = _without_none_text(values)
    for name in ("callbacks", "eval_callbacks"):
        if isinstance(plain.get(name), dict):  # one callback written without the dash
            plain[name] = [plain[name]]
        if plain.get(name) is None:
            plain.pop(name, None)
        if isinstance(plain.get(name), list):
            plain[name] = [_respelt(item, CALLBACK_KEYS) for item in plain[name]]
    for place in _PLACES_OF_CLASSES:
        spec = lookup(plain, place)
        if isinstance(spec, dict) and isinstance(spec.get("type"), str):
            spec["type"] = CLASSES.get(spec["type"], spec["type"])
    if lookup(plain, "model.arch.type") == LORA_NETWORK and isinstance(lookup(plain, "model.model_config"), dict):
        plain["model"]["arch"]["type"] = NETWORK
        plain["model"]["model_config"].setdefault("pet_config", None)
        plain["model"]["model_config"]["pet_config"] = plain["model"]["model_config"]["pet_config"] or dict(LORA)
    return plain


def without_effect(values: Values) -> list[str]:
    """A sentence for each key of the two tables whose value would have mattered: that it does nothing, and why."""
    of_model = (row._replace(key=f"model.model_config.{row.key}") for row in MODEL_NO_EFFECT)
    found = ((row, lookup(values, row.key)) for row in (*NO_EFFECT, *of_model))
    return [
        f"{row.key}: {value!r} has no effect here: {row.reason}."
        for row, value in found
        if value is not None and row.matters(value, values)
    ]


def lookup(values: Any, key: str) -> Any:
    """The value at a dotted key, None when a part of the way is missing."""
    for part in key.split("."):
        if not isinstance(values, Mapping):
            return None
        values = values.get(part)
    return values


def _without_none_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_none_text(item) for item in value]
    return None if isinstance(value, str) and value == "None" else value


def _respelt(spec: Any, spellings: Mapping[str, str]) -> Any:
    if not isinstance(spec, Mapping):
        return spec
    return {spellings.get(key, key): value for key, value in spec.items()}


def drop_of_tokenizers(values: Values) -> list[str]:
    """Takes keys that no tokenizer reads out of the tokenizer sections; a sentence for each that said something."""
    notes = []
    for place in TOKENIZER_PLACES:
        spec = lookup(values, place)
        for row in TOKENIZER_NO_EFFECT if isinstance(spec, dict) else ():
            value = spec.pop(row.key, None)
            if value:
                notes.append(f"{place}.{row.key}: {shorten(value, 60)} has no effect here: {row.reason}.")
    return notes


def respelt_layer(values: dict[str, Any]) -> dict[str, Any]:
    """One file, or one command line, in the spelling that the layers are merged in."""
    if "optimizer" in values:
        values = {**values, "optimizer": _with_both_betas(values["optimizer"])}
    return values


def _with_both_betas(spec: Any) -> Any:
    """`betas: [0.9, 0.95]`, as PyTorch and later files write it, as beta1 and beta2."""
    betas = lookup(spec, "betas")
    if not isinstance(betas, (list, tuple)) or len(betas) != 2 or "beta1" in spec or "beta2" in spec:
        return spec
    return {**{key: value for key, value in spec.items() if key != "betas"}, "beta1": betas[0], "beta2": betas[1]}
