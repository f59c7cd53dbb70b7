"""Evaluates, predicts and writes strategies with glm2_tiny in a grid of processes. Run alone or by launched.py.

argv: folder, then variants "dp=2", "tp=2", "pp=2" or "one" (a process alone). Rank R of variant V leaves
folder/V.R.json: {"figures": ..., "results": ..., "steps": batches of its own}.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np

from mindformers_glm import runtime
from mindformers_glm.assembly.run import build_network, load_weights, ranks_of
from mindformers_glm.config import load_config
from mindformers_glm.config.names import CONFIGS_DIR
from mindformers_glm.tasks.causal_language_modeling import CausalLanguageModelingTrainer
from mindformers_glm.tasks.task import prepare

PROMPTS = ["类型#裤*颜色#黑色", "你好", "类型#上衣*风格#简约", "Hello", "类型#裙"]

LOSS = ("metric.type=PerplexityMetric", "eval_dataset.data_loader.phase=train", "eval_dataset.max_target_length=31")


class Steps(logging.Handler):
    """Counts the batches that this rank worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += str(record.msg).startswith("Step[")


def config_of(folder: Path, variant: str, *settings: str):
    dp, tp, pp = {"dp=2": (2, 1, 1), "tp=2": (1, 2, 1), "pp=2": (1, 1, 2)}.get(variant, (1, 1, 1))
    return load_config(
        CONFIGS_DIR / "tiny" / "run_glm2_tiny_eval.yaml",
        [
            f"output_dir={folder / variant}",
            f"eval_dataset.data_loader.dataset_dir={folder / 'dev.json'}",
            f"train_dataset.data_loader.dataset_dir={folder / 'dev.json'}",
            "runner_config.batch_size=2",
            "eval_dataset.max_source_length=32",
            "eval_dataset.max_target_length=32",
            "train_dataset.max_source_length=32",
            "train_dataset.max_target_length=31",
            "model.model_config.seq_length=64",
            "model.model_config.max_new_tokens=8",
            "model.model_config.max_length=null",
            "model.model_config.max_decode_length=null",
            f"use_parallel={dp * tp * pp > 1}",
            "parallel.parallel_mode=1",
            f"parallel_config.data_parallel={dp}",
            f"parallel_config.model_parallel={tp}",
            f"parallel_config.pipeline_stage={pp}",
            f"parallel_config.micro_batch_num={pp}",
            *settings,
        ],
    )


def work(folder: Path, variant: str) -> None:
    steps, found = Steps(), {}
    for name, settings in {
        "text": ("metric.type=ADGENMetric",),
        "sampled": ("metric.type=ADGENMetric", "model.model_config.do_sample=True", "model.model_config.top_k=20"),
        "loss": LOSS,
    }.items():
        config = config_of(folder, variant, "run_mode=eval", *settings)
        prepare(config)
        logging.getLogger("mindformers_glm").addHandler(steps)
        found[name] = CausalLanguageModelingTrainer(config).evaluate()
    config = config_of(folder, variant, "run_mode=finetune", "do_eval=True", *LOSS)
    trainer, ranks = CausalLanguageModelingTrainer(config), ranks_of(config, training=True)
    network = build_network(config, training=True, ranks=ranks)
    load_weights(network, config, ranks)
    found["loss while training"] = trainer.evaluate_network(network, trainer.tokenizer)
    predict = ("run_mode=predict", f"input_data={json.dumps(PROMPTS, ensure_ascii=False)}", "predict_batch_size=2")
    config = config_of(folder, variant, *predict, f"save_file={folder / variant}.txt")
    results = CausalLanguageModelingTrainer(config).predict()
    config = config_of(folder, variant, "run_mode=finetune", "only_save_strategy=True")
    CausalLanguageModelingTrainer(config).train()
    report = {"figures": found, "results": results, "steps": steps.count, "draw": int(np.random.randint(2**31))}
    Path(f"{folder / variant}.{runtime.rank()}.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    for given in sys.argv[2:]:
        work(Path(sys.argv[1]), given)
        print(f"rank {runtime.rank()}: {given} done", flush=True)
