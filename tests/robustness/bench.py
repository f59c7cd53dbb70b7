"""Good files of every kind, made once: what the inputs are spoilt copies of."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from mindformers_glm.checkpoint.convert import run_plan, save_directory
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.convert.megatron import write_megatron
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.checkpoint.store.strategy import Slicing, write_strategy
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/checkpoint"))
import pickled  # noqa: E402 - a neighbour's writer of .bin files

TINY = ChatGLM2Config(
    num_layers=2, hidden_size=32, num_attention_heads=4, multi_query_group_num=2, kv_channels=8, ffn_hidden_size=48,
    padded_vocab_size=50, seq_length=64, param_init_type="float32", compute_dtype="float32",
)  # fmt: skip
SHAPE = {
    "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4,
    "seq_length": 64,
}  # fmt: skip
ADGEN = [{"content": f"类型#裙*颜色#红色*图案#{n}", "summary": f"这条红色的裙子有图案{n}。"} for n in range(8)]
TURNS = [
    {"conversations": [{"role": "user", "content": f"问{n}"}, {"role": "assistant", "content": f"答{n}"}]}
    for n in range(4)
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"问{n}"}, {"from": "gpt", "value": f"答{n}"}]} for n in range(4)
]
ALPACA = [{"instruction": f"写{n}", "input": "", "output": f"好{n}", "history": [["a", "b"]]} for n in range(4)]
TEXTS = [{"text": f"第{n}段文字，说的是天气。"} for n in range(6)]
TOOLS = [
    {
        "tools": [{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}],
        "conversations": [
            {"role": "user", "content": "天气"},
            {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": "晴"},
            {"role": "assistant", "content": "晴天"},
        ],
    }
]


def lines(rows: list) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def build(folder: Path) -> Path:
    """Fills the folder; returns it."""
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(TINY).items()}
    ours = save_directory(folder / "ours", arrays, TINY)
    run_plan(plan_job(ours, folder / "model", "hf"))
    run_plan(plan_job(ours, folder / "base.ckpt", "mindformers", config=ours / "config.yaml"))
    _adapter(folder / "adapter")
    official = {name: read_weights(folder / "model").read(name) for name in read_weights(folder / "model").names}
    (folder / "bin").mkdir()
    named = _official_arrays(folder / "model")
    pickled.save(folder / "bin/pytorch_model.bin", named or official)
    pickled.save_legacy(folder / "legacy.bin", named or official)
    shutil.copyfile(folder / "model/config.json", folder / "bin/config.json")
    _sharded(folder, named)
    write_megatron(arrays, TINY, folder / "megatron")
    save_rank(folder / "ranks", arrays)
    slicings = {name: Slicing((1, 2), (-1,) * len(shape)) for name, shape in expected_shapes(TINY).items()}
    for name in ("strategy.json", "strategy.ckpt"):
        write_strategy(folder / name, slicings)
    _tokenizers(folder)
    _data(folder)
    _configurations(folder)
    return folder


def save_rank(folder: Path, arrays: dict) -> None:
    """A folder of one rank."""
    (folder / "rank_0").mkdir(parents=True)
    save_ckpt(folder / "rank_0/checkpoint_0.ckpt", arrays)


def _official_arrays(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file  # noqa: PLC0415

    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def _sharded(folder: Path, named: dict[str, np.ndarray]) -> None:
    (folder / "sharded").mkdir()
    names = sorted(named)
    half = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, held in half.items():
        save_file({name: named[name] for name in held}, folder / "sharded" / file)
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in named.values())},
        "weight_map": {name: file for file, held in half.items() for name in held},
    }
    (folder / "sharded/model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copyfile(folder / "model/config.json", folder / "sharded/config.json")


def _adapter(folder: Path) -> None:
    folder.mkdir()
    random, rows = np.random.default_rng(1), 4 * 8 + 2 * 2 * 8
    arrays = {}
    for layer in range(TINY.num_layers):
        name = f"base_model.model.transformer.encoder.layers.{layer}.self_attention.query_key_value.lora_"
        arrays[name + "A.weight"] = random.standard_normal((2, 32)).astype(np.float32)
        arrays[name + "B.weight"] = random.standard_normal((rows, 2)).astype(np.float32)
    save_file(arrays, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "bias": "none",
        "target_modules": ["query_key_value"], "base_model_name_or_path": "THUDM/chatglm2-6b",
        "init_lora_weights": True, "inference_mode": True, "fan_in_fan_out": False, "modules_to_save": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))


def _tokenizers(folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    shutil.copyfile(ROOT / "mindformers_glm/assets/glm2_tiny/tokenizer.model", folder / "tokenizer/tokenizer.model")
    settings = {"tokenizer_class": "ChatGLM2Tokenizer", "padding_side": "left", "model_max_length": 64}
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "ranks_tokenizer").mkdir()
    ranks = b"".join(base64.b64encode(bytes([n])) + b" %d\n" % n for n in range(256))
    (folder / "ranks_tokenizer/tokenizer.model").write_bytes(ranks)
    settings = {"tokenizer_class": "ChatGLM4Tokenizer", "padding_side": "left"}
    (folder / "ranks_tokenizer/tokenizer_config.json").write_text(json.dumps(settings))


def _data(folder: Path) -> None:
    rows = {"adgen": ADGEN, "turns": TURNS, "sharegpt": SHAREGPT, "alpaca": ALPACA, "texts": TEXTS, "tools": TOOLS}
    for name, held in rows.items():
        (folder / f"{name}.jsonl").write_text(lines(held), encoding="utf-8")
    table = "content,summary\n" + "".join(f"{row['content']},{row['summary']}\n" for row in ADGEN)
    (folder / "adgen.csv").write_text(table, encoding="utf-8")
    (folder / "plain.txt").write_text("".join(row["text"] + "\n" for row in TEXTS), encoding="utf-8")


def _configurations(folder: Path) -> None:
    config = {
        "base_config": str(ROOT / "configs/tiny/run_glm2_tiny_finetune.yaml"),
        "model": {"model_config": {**SHAPE, "checkpoint_name_or_path": ""}},
        "load_checkpoint": "",
        "allow_random_weights": True,
        "run_mode": "train",
        "train_dataset": {
            "data_loader": {"dataset_dir": "adgen.jsonl"},
            "max_source_length": 31,
            "max_target_length": 32,
        },
        "eval_dataset": {
            "data_loader": {"dataset_dir": "adgen.jsonl"},
            "max_source_length": 48,
            "max_target_length": 32,
        },
        "runner_config": {"batch_size": 4, "sink_mode": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
