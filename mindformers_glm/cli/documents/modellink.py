r"""ModelLink's ChatGLM3 page: training and conversion with its flags.

    bash scripts/chatglm3/tune_chatglm3_6B_8K.sh          (the variables stand at the top of each script)
    python tools/checkpoint/convert_ckpt.py --model-type GPT --loader chatglm3_hf --saver megatron \
        --target-tensor-parallel-size 1 --target-pipeline-parallel-size 2 --load-dir HF --save-dir OUT

Flags are translated one by one into our configuration, which is printed and kept beside the run; one that nobody knows
is refused. A Megatron folder is read at --load and written at --save. See docs/migration.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.cli.documents import megatron_flags as flags
from mindformers_glm.cli.documents.training import carry_out, device_of, laid_over, of_model, precision, show
from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.tokenizers.files import found

_STYLES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_LOADERS_OF_HF = ("chatglm3_hf", "hf_mcore", "hf")
_LOADERS_OF_MEGATRON = ("megatron", "mg_mcore", "mg", "loader_megatron")


def parser() -> argparse.ArgumentParser:
    """The flags of the page's training scripts."""
    p = Parser(description=__doc__)
    p.add_argument(
        "--data-path", required=True, help="prefix of .bin/.idx pairs; with a blend: WEIGHT PREFIX ...", nargs="+"
    )
    p.add_argument("--tokenizer-name-or-path", required=True, help="folder or name of the tokenizer")
    p.add_argument("--load", help="weights to start from: a Megatron folder, or any model")
    p.add_argument("--save", required=True, help="folder of the run; the result lies there as a Megatron folder too")
    p.add_argument("--seq-length", type=whole(2), required=True, help="tokens of a row")
    p.add_argument("--micro-batch-size", type=whole(), default=1, help="rows of a device and pass (1)")
    p.add_argument("--global-batch-size", type=whole(), help="rows of a step over all devices")
    p.add_argument("--tensor-model-parallel-size", type=whole(), default=1, help="tensor ranks (1)")
    p.add_argument("--pipeline-model-parallel-size", type=whole(), default=1, help="pipeline stages (1)")
    p.add_argument("--nproc_per_node", type=whole(1, 1024), default=1, help="processes of this server (1)")
    p.add_argument("--split", help="shares of train, valid, test: 969,30,1 (100,0,0)")
    p.add_argument("--min-lr", type=number(), help="rate at the end")
    p.add_argument("--lr-decay-style", choices=tuple(_STYLES), default="linear", help="(linear)")
    p.add_argument("--lr-warmup-fraction", type=number(most=1), help="share of the run")
    p.add_argument("--lr-warmup-iters", type=whole(0), help="steps of warm-up")
    p.add_argument("--save-interval", type=whole(), help="steps between checkpoints")
    p.add_argument("--log-interval", type=whole(), default=1, help="steps between two lines (1)")
    p.add_argument("--is-instruction-dataset", action="store_true", help="pairs of the instruction handler")
    p.add_argument("--reset-position-ids", action="store_true", help="positions begin anew with a document")
    p.add_argument("--reset-attention-mask", action="store_true", help="tokens see their own document alone")
    p.add_argument("--eod-mask-loss", action="store_true", help="the end mark is not learned")
    p.add_argument("--recompute-granularity", choices=("full", "selective"), help="recompute activations")
    p.add_argument("--recompute-method", help=argparse.SUPPRESS)
    p.add_argument("--recompute-num-layers", help=argparse.SUPPRESS)
    p.add_argument("--fp16", action="store_true", help="half precision")
    p.add_argument("--bf16", action="store_true", help="bfloat16")
    for flag in flags.SETTINGS:
        p.add_argument(f"--{flag.name}", type=flag.kind, help=f"{flag.key} of our YAML")
    for name, key in flags.SWITCHES.items():
        p.add_argument(f"--{name}", action="store_true", help=f"{key} of our YAML: True")
    for name in flags.NETWORK:
        p.add_argument(f"--{name}", type=whole(), help="must be what the weights are")
    for name, reason in flags.IGNORED_SWITCHES.items():
        p.add_argument(f"--{name}", action="store_true", help=f"accepted; no effect ({reason})")
    for name, reason in flags.IGNORED_VALUES.items():
        p.add_argument(f"--{name}", help=f"accepted; no effect ({reason})")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="ours: where it runs")
    return p


def train(argv: Sequence[str] | None = None) -> int:
    """Pretrains, or fine-tunes on instruction pairs; the weights at the end are written as a Megatron folder too.

    Raises:
        UserError: a flag, a pair, the weights or the tokenizer is not as it must be.
    """
    chosen = parser().parse_args(argv)
    if chosen.load is None:
        raise ConfigError("--load", None, "Name the weights to start from.")
    output = user_path(chosen.save)
    model = readable(chosen.load, chosen.tokenizer_name_or_path, output / "loaded")
    target = device_of(chosen.device_target)
    values = of_model(model, bases=("pretrain.yaml",), device_target=target, seq_length=chosen.seq_length)
    _check_network(chosen, values["model"]["model_config"])
    keys, lines = translated(chosen)
    half = "float16" if chosen.fp16 else "bfloat16" if chosen.bf16 else None
    ignored = [
        (f"--{name}", reason)
        for name, reason in {**flags.IGNORED_SWITCHES, **flags.IGNORED_VALUES}.items()
        if getattr(chosen, name.replace("-", "_"))
    ]
    show(lines, ignored)
    for section in ("eval_dataset", "eval_dataset_task", "metric", "lr_schedule"):
        values.pop(section, None)
    values = laid_over(values, {**keys, **precision(values, target, half=half)})
    status = carry_out(values, str(output), ranks=chosen.nproc_per_node, mode="train")
    if status == 0:
        _save_megatron(output, chosen)
    return status


def translated(chosen: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Keys of our configuration, and a line for each flag that made one.

    Raises:
        ConfigError: batch sizes and ranks do not fit together.
    """
    tp, pp, ranks = chosen.tensor_model_parallel_size, chosen.pipeline_model_parallel_size, chosen.nproc_per_node
    if ranks % (tp * pp):
        fix = f"--nproc_per_node {ranks} is no multiple of {tp} x {pp} ranks."
        raise ConfigError("--tensor-model-parallel-size", tp, fix)
    dp, micro = ranks // (tp * pp), chosen.micro_batch_size
    whole_batch = chosen.global_batch_size or dp * micro
    if whole_batch % (dp * micro):
        fix = f"It must be a multiple of {dp} data ranks times --micro-batch-size {micro}."
        raise ConfigError("--global-batch-size", whole_batch, fix)
    passes = whole_batch // (dp * micro)
    loader: dict[str, Any] = {"dataset_dir": " ".join(chosen.data_path), "split": chosen.split or "100,0,0"}
    if chosen.seed is not None:
        loader["seed"] = chosen.seed
    if chosen.train_iters is not None:
        loader["num_samples"] = chosen.train_iters * whole_batch
    for name in ("reset_position_ids", "reset_attention_mask", "eod_mask_loss"):
        if getattr(chosen, name):
            loader[name] = True
    keys: dict[str, Any] = {
        **{f"train_dataset.data_loader.{name}": value for name, value in loader.items()},
        "train_dataset.seq_length": chosen.seq_length,
        "runner_config.batch_size": micro,
        "runner_config.gradient_accumulation_steps": passes if pp == 1 else 1,
        "parallel_config.data_parallel": dp,
        "parallel_config.model_parallel": tp,
        "parallel_config.pipeline_stage": pp,
        "optimizer.type": "adamw_bias_correction",
        "lr_schedule.type": _STYLES[chosen.lr_decay_style],
        "callbacks": _callbacks(chosen),
    }
    if tp * pp > 1:
        keys |= {"parallel.parallel_mode": 1, "parallel.full_batch": True}
    if pp > 1:
        keys["parallel_config.micro_batch_num"] = passes
    if dp > 1:
        keys["parallel.enable_parallel_optimizer"] = True
    for flag in flags.SETTINGS:
        value = getattr(chosen, flag.name.replace("-", "_"))
        if value is not None:
            keys[flag.key] = value
    keys |= {key: True for name, key in flags.SWITCHES.items() if getattr(chosen, name.replace("-", "_"))}
    keys.setdefault("lr_schedule.learning_rate", 1e-6)
    if chosen.min_lr is not None and chosen.lr_decay_style == "cosine":
        keys["lr_schedule.lr_end"] = chosen.min_lr
    if chosen.lr_warmup_iters:
        keys["lr_schedule.warmup_steps"] = chosen.lr_warmup_iters
    elif chosen.lr_warmup_fraction:
        keys["lr_schedule.warmup_ratio"] = chosen.lr_warmup_fraction
    else:
        keys["lr_schedule.warmup_lr_init"] = keys["lr_schedule.learning_rate"]
    if chosen.recompute_granularity:
        keys["recompute_config.recompute"] = True
    if chosen.is_instruction_dataset:
        print("--is-instruction-dataset: pairs of the instruction handler are known by their files")
    return keys, [(_source(key), f"{key}: {value}") for key, value in keys.items()]


_SOURCES = {
    "train_dataset.data_loader.dataset_dir": "--data-path",
    "train_dataset.data_loader.num_samples": "--train-iters x --global-batch-size",
    "train_dataset.seq_length": "--seq-length",
    "runner_config.batch_size": "--micro-batch-size",
    "runner_config.gradient_accumulation_steps": "--global-batch-size",
    "parallel_config.data_parallel": "--nproc_per_node",
    "parallel_config.model_parallel": "--tensor-model-parallel-size",
    "parallel_config.pipeline_stage": "--pipeline-model-parallel-size",
    "parallel_config.micro_batch_num": "--global-batch-size",
    "lr_schedule.type": "--lr-decay-style",
    "lr_schedule.lr_end": "--min-lr",
    "lr_schedule.warmup_steps": "--lr-warmup-iters",
    "lr_schedule.warmup_ratio": "--lr-warmup-fraction",
    "recompute_config.recompute": "--recompute-granularity",
    "callbacks": "--save-interval",
    "optimizer.type": "(Megatron's Adam)",
    "parallel.parallel_mode": "--tensor-model-parallel-size",
    "parallel.full_batch": "--tensor-model-parallel-size",
    "parallel.enable_parallel_optimizer": "--use-distributed-optimizer",
    **{flag.key: f"--{flag.name}" for flag in flags.SETTINGS},
    **{key: f"--{name}" for name, key in flags.SWITCHES.items()},
}


def _source(key: str) -> str:
    return _SOURCES.get(key, "--" + key.rpartition(".")[2].replace("_", "-"))


def _callbacks(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    steps = chosen.save_interval or 2**31 - 1
    saved = {
        "type": "CheckpointMonitor",
        "prefix": "modellink",
        "save_checkpoint_steps": steps,
        "keep_checkpoint_max": 2,
    }
    return [{"type": "MFLossMonitor", "per_print_times": chosen.log_interval}, saved]


def _check_network(chosen: argparse.Namespace, network: dict[str, Any]) -> None:
    from mindformers_glm.models.interface import NetworkConfig  # noqa: PLC0415 - brings pydantic

    config = NetworkConfig(**{name: value for name, value in network.items() if name != "type"})
    for flag, field in flags.NETWORK.items():
        given = getattr(chosen, flag.replace("-", "_"))
        if given is not None and given != getattr(config, field):
            fix = f"The weights of --load have {getattr(config, field)}."
            raise ConfigError(f"--{flag}", given, fix)


def readable(load: str, tokenizer: str, folder: Path) -> str:
    """What a run can start from: the name itself, or our folder of a Megatron folder's weights with its tokenizer."""
    from mindformers_glm.checkpoint.load.folders import is_megatron  # noqa: PLC0415 - reads weights

    if not is_megatron(load):
        return load
    if not (folder / "config.json").is_file() and not (folder / "config.yaml").is_file():
        from mindformers_glm.cli import convert  # noqa: PLC0415

        print(f"--load {load}: Megatron weights, written for this run as {folder}")
        beside = [
            path for path in (user_path(load) / "config.json", user_path(tokenizer) / "config.json") if path.is_file()
        ]
        if not beside:
            fix = "A Megatron folder does not tell its network: put the model's config.json beside its tokenizer."
            raise ConfigError("--tokenizer-name-or-path", tokenizer, fix)
        words = ["--config", str(beside[0]), "--tokenizer", tokenizer]
        convert.main(["--input_path", load, "--output_path", str(folder), *words])
    return str(folder)


def _save_megatron(output: Path, chosen: argparse.Namespace) -> None:
    """The run's weights as SAVE/megatron; parts of several ranks are joined first, in SAVE/merged."""
    from mindformers_glm.cli import convert, transform  # noqa: PLC0415 - reads weights

    tp, pp = chosen.tensor_model_parallel_size, chosen.pipeline_model_parallel_size
    network = output / "checkpoint_network"
    words = ["--input_path", str(network)]
    if tp * pp > 1:
        merged, strategy = output / "merged", output / "strategy"
        places = ["--src_ckpt_dir", str(network), "--dst_ckpt_dir", str(merged), "--prefix", "modellink"]
        transform.main(["--src_ckpt_strategy", f"{strategy}/", *places])
        words = ["--input_path", str(next((merged / "rank_0").glob("*.ckpt")))]
        words += ["--config", str(network / "rank_0" / "config.yaml")]
    words += ["--output_path", str(output / "megatron"), "--to", "megatron", "--tp", str(tp), "--pp", str(pp)]
    convert.main([*words, "--overwrite"])


def convert_parser() -> argparse.ArgumentParser:
    """The options of convert_ckpt.py."""
    p = Parser(description=__doc__)
    p.add_argument("--model-type", choices=("GPT",), default="GPT", help="GPT")
    p.add_argument("--loader", choices=(*_LOADERS_OF_HF, *_LOADERS_OF_MEGATRON), help="what --load-dir holds")
    p.add_argument("--saver", choices=("megatron", "mg_mcore"), default="megatron", help="megatron")
    p.add_argument("--load-model-type", choices=("hf", "mg"), help="the same as --loader, in newer versions")
    p.add_argument(
        "--save-model-type", help="save_huggingface_chatglm3, huggingface or hf: SAVE_DIR/mg2hg; megatron, mg"
    )
    p.add_argument("--target-tensor-parallel-size", type=whole(), default=1, help="tensor ranks (1)")
    p.add_argument("--target-pipeline-parallel-size", type=whole(), default=1, help="pipeline stages (1)")
    p.add_argument("--load-dir", required=True, help="folder to read")
    p.add_argument("--save-dir", required=True, help="folder to write; with mg2hg the original Hugging Face folder")
    p.add_argument("--tokenizer-model", help="tokenizer.model, put beside weights that have none")
    p.add_argument("--params-dtype", choices=("fp32", "fp16", "bf16"), help="type of the numbers (as they are)")
    p.add_argument("--model-type-hf", choices=("chatglm3",), help="chatglm3")
    for name in ("add-qkv-bias", "use-mcore-models"):
        p.add_argument(f"--{name}", action="store_true", help="accepted; no effect (the weights tell it)")
    p.add_argument("--overwrite", action="store_true", help="ours: replace an earlier output")
    return p


def convert_ckpt(argv: Sequence[str] | None = None) -> None:
    """Converts between Hugging Face and Megatron folders, or divides a Megatron folder anew.

    Raises:
        UserError: the options do not say what is what, or whatever the conversion finds.
    """
    from mindformers_glm.cli import convert  # noqa: PLC0415 - reads weights

    chosen = convert_parser().parse_args(argv)
    reads_hf = chosen.load_model_type == "hf" or chosen.loader in _LOADERS_OF_HF
    if chosen.loader is None and chosen.load_model_type is None:
        raise ConfigError("--loader", None, "Name what --load-dir holds: chatglm3_hf or megatron.")
    kind = (chosen.save_model_type or "megatron").lower()
    to_hf = "huggingface" in kind or kind == "hf"
    if not to_hf and kind not in ("megatron", "mg", "save_megatron"):
        raise ConfigError("--save-model-type", chosen.save_model_type, "Use save_huggingface_chatglm3 or megatron.")
    if to_hf and reads_hf:
        raise ConfigError("--save-model-type", chosen.save_model_type, "--load-dir is a Hugging Face folder already.")
    more = ["--overwrite"] if chosen.overwrite else []
    if chosen.params_dtype:
        more += ["--dtype", chosen.params_dtype]
    if not to_hf:
        tp, pp = chosen.target_tensor_parallel_size, chosen.target_pipeline_parallel_size
        words = ["--to", "megatron", "--tp", str(tp), "--pp", str(pp)]
        convert.main(["--input_path", chosen.load_dir, "--output_path", chosen.save_dir, *words, *more])
        return
    original = user_path(chosen.save_dir)
    if (original / "config.json").is_file():
        more += ["--config", str(original / "config.json")]
    tokenizer = original if (original / "tokenizer.model").is_file() else None
    if tokenizer is None and chosen.tokenizer_model:
        tokenizer = found(chosen.tokenizer_model)
        tokenizer = tokenizer.parent if tokenizer.is_file() else tokenizer
    more += ["--tokenizer", str(tokenizer)] if tokenizer else []
    convert.main(["--input_path", chosen.load_dir, "--output_path", str(original / "mg2hg"), "--to", "hf", *more])
