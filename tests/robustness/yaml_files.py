"""Configurations: keys of the schema and of components with values they cannot mean; files that are no YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from inputs import STAND_INS, Input, drawn, generator, spoilt_bytes, spoilt_values

from mindformers_glm.config.keys import all_keys
from mindformers_glm.config.schema import schema_keys

FAMILY = "YAML"
RUN = ("run", "--config", "run.yaml")
_COMPONENTS = (
    *(f"optimizer.{name}" for name in ("type", "beta1", "eps", "weight_decay", "learning_rate", "foo")),
    *(
        f"lr_schedule.{name}"
        for name in ("type", "learning_rate", "lr_end", "warmup_steps", "warmup_ratio", "total_steps", "power", "foo")
    ),
    *(f"runner_wrapper.{name}" for name in ("type", "scale_sense", "use_clip_grad", "max_grad_norm", "foo")),
    *(f"runner_wrapper.scale_sense.{name}" for name in ("type", "loss_scale_value", "scale_factor", "scale_window")),
    *(
        f"model.model_config.{name}"
        for name in (
            "type",
            "num_layers",
            "hidden_size",
            "num_attention_heads",
            "kv_channels",
            "ffn_hidden_size",
            "seq_length",
            "padded_vocab_size",
            "multi_query_group_num",
            "layernorm_epsilon",
            "rope_ratio",
            "param_init_type",
            "compute_dtype",
            "pre_seq_len",
            "pet_config",
            "eos_token_id",
            "quantization_bit",
            "hidden_dropout",
            "attention_dropout",
            "top_k",
            "top_p",
            "temperature",
            "max_length",
            "foo",
        )
    ),
    *(
        f"train_dataset.{name}"
        for name in ("data_loader", "tokenizer", "max_source_length", "max_target_length", "input_columns", "foo")
    ),
    *(
        f"train_dataset.data_loader.{name}"
        for name in ("type", "dataset_dir", "shuffle", "phase", "max_bad_ratio", "num_samples", "origin_columns", "foo")
    ),
    *(
        "train_dataset_task.type",
        "model.arch.type",
        "model.arch.foo",
        "callbacks",
        "callbacks.0",
        "callbacks.0.type",
        "callbacks.1.prefix",
    ),
    *(f"callbacks.1.{name}" for name in ("save_checkpoint_steps", "keep_checkpoint_max", "foo")),
    *(
        "metric",
        "metric.type",
        "processor.tokenizer.vocab_file",
        "processor.type",
        "trainer.type",
        "trainer.foo",
        "foo",
        "foo.bar",
    ),
)
_BOUNDLESS = (".inf", "-.inf", ".nan", "1" + "0" * 30, "9" * 6000)
_ODD = (
    "-7",
    "0",
    "[]",
    "{}",
    "[[1]]",
    "{a: 1}",
    "词",
    "''",
    "true",
    "null",
    "1e-5",
    "1e400",
    "'1e-5'",
    "x" * 3000,
    "0o17",
    "2020-01-01",
    "*nobody",
    "!!python/name:os.system x",
)
_WHOLE_FILES = {
    "tab": "run_mode: train\n\tseed: 1\n",
    "twice": "seed: 1\nseed: 2\n",
    "cycle": "a: &a [*a]\n",
    "merge cycle": "a: &a {<<: *a}\n",
    "object": "!!python/object/apply:os.system ['true']\n",
    "documents": "seed: 1\n---\nseed: 2\n",
    "list": "- a\n- b\n",
    "scalar": "just text\n",
    "null": "null\n",
    "comment": "# nothing\n",
    "unclosed": "a: [1, 2\n",
    "quote": "a: 'b\n",
    "deep": "a: " + "[" * 5000 + "\n",
    "deep map": "".join(" " * n + "a:\n" for n in range(800)),
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)),
    "many keys": "".join(f"k{n}: {n}\n" for n in range(20_000)),
    "full-width": "run_mode： train\n",
    "BOM UTF-16": "run_mode: train\n".encode("utf-16"),
    "GBK": "run_mode: 训练\n".encode("gbk"),
    "NUL": b"run_mode: tr\0ain\n",
    "bell": b"run_mode: tr\x07ain\n",
    "base itself": "base_config: run.yaml\n",
    "base missing": "base_config: nowhere.yaml\n",
    "base device": "base_config: /dev/zero\n",
    "base folder": "base_config: .\n",
    "base number": "base_config: 7\n",
    "base mapping": "base_config: {a: b}\n",
    "base list": "base_config: [nowhere.yaml, 3, null]\n",
    "base long": "base_config: " + "x" * 5000 + "\n",
    "int tag": "seed: !!int abc\n",
    "binary tag": "seed: !!binary '%%%'\n",
    "set tag": "seed: !!set {a, b}\n",
    "omap tag": "seed: !!omap [a]\n",
    "timestamp tag": "seed: !!timestamp 99\n",
    "unknown tag": "seed: !mine 1\n",
    "key list": "? [a, b]\n: 1\n",
    "key null": "null: 1\n",
    "key number": "1: 2\n",
    "key long": "x" * 200_000 + ": 1\n",
    "JSON": '{"run_mode": "train"}',
    "directive": "%YAML 9.9\n---\nseed: 1\n",
}


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    text = (bench / "run.yaml").read_text(encoding="utf-8")
    yield from _keys(text, bench)
    yield from _files(text, bench)
    yield from _mutations(text, bench)


def _keys(text: str, bench: Path) -> Iterator[Input]:
    keys = [*schema_keys(), *_COMPONENTS]
    beside = {"adgen.jsonl": bench / "adgen.jsonl", "run.yaml": text}
    every = [
        Input(
            FAMILY,
            f"{key}={value[:12]}",
            (*RUN, "--options", f"{key}={value}"),
            files=beside,
            expected="either",
            names=_names(key, value),
        )
        for key in keys
        for value in _ODD
    ]
    yield from drawn(every, 330, "keys")
    every = [
        Input(
            FAMILY, f"{key}={value[:9]}", (*RUN, "--options", f"{key}={value}"), files=beside, names=_names(key, value)
        )
        for key in keys
        for value in _BOUNDLESS
        if key not in _TEXTS
    ]
    yield from drawn(every, 60, "boundless")


_TEXTS = {  # a file may be called so
    *(row.name for row in all_keys() if "text" in row.values or row.values == "any"),
    *("callbacks.1.prefix", "processor.tokenizer.vocab_file", "train_dataset.data_loader.dataset_dir"),
}


def _names(key: str, value: str) -> tuple[str, ...]:
    parts = [part for part in key.split(".") if not part.isdigit()]
    return tuple(filter(None, (key, *parts[-2:], parts[0], parts[0].removesuffix("_task"), value)))


def _files(text: str, bench: Path) -> Iterator[Input]:
    beside = {"adgen.jsonl": bench / "adgen.jsonl"}
    for name, content in {**_WHOLE_FILES, **{f"stands in: {name}": what for name, what in STAND_INS.items()}}.items():
        yield Input(
            FAMILY,
            f"file: {name}",
            RUN,
            files={**beside, "run.yaml": content},
            names=("run.yaml", "nowhere", "/dev/zero", "base_config", "config", "run_mode"),
        )
    for word in ("nonsense", "Train", "finetune2", "预测", "", "train,eval"):
        yield Input(
            FAMILY,
            f"run_mode {word!r}",
            (*RUN, "--run_mode", word),
            files={**beside, "run.yaml": text},
            names=("run_mode",),
        )
    for number, (_, content) in enumerate(spoilt_bytes(text.encode(), generator("yaml bytes"), 60)):
        given = {**beside, "run.yaml": content}
        yield Input(FAMILY, f"bytes {number}", RUN, files=given, expected="either")


def _mutations(text: str, bench: Path) -> Iterator[Input]:
    beside = {"adgen.jsonl": bench / "adgen.jsonl"}
    tree: Any = yaml.safe_load(text)
    for number, (key, spoilt) in enumerate(spoilt_values(tree, generator("yaml values"), 60)):
        content = yaml.safe_dump(spoilt, allow_unicode=True)
        yield Input(FAMILY, f"tree {number} {key}", RUN, files={**beside, "run.yaml": content}, expected="either")
