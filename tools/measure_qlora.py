#!/usr/bin/env python3
"""LoRA on integer weights: memory, seconds a step, and losses beside float32's.

    python tools/measure_qlora.py --shape 65024,4096,28,32,2,13696 --bits 4 --batch 1 --length 256 --steps 3
    python tools/measure_qlora.py --shape 65024,1024,12,16,2,3424 --bits 4,0,4,0 --batch 2 --length 193 --steps 5
    python tools/measure_qlora.py --shape 65024,1024,12,16,2,3424 --bits 0,8,4 --steps 200 --data train.json --vocab tokenizer.model

Each word of --bits is a process of its own, in this order: 0 is float32. A shape is vocabulary, hidden size, layers,
heads, key-value heads, ffn. With --data the rows are those of ADGEN, otherwise random; the weights are random, and with
integers the nearest to the same ones. Peak memory is what the system counted for the process.
"""  # noqa: E501 - commands

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", required=True)
    p.add_argument("--bits", default="4")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--targets", default="all-linear")
    p.add_argument("--compute_dtype", default="float32")
    p.add_argument("--embedding_type", default="float32")
    p.add_argument("--recompute", choices=("none", "select", "all"), default="none", help="layers computed again")
    p.add_argument("--learning_rate", type=float, default=1e-4)
    p.add_argument("--data", help="ADGEN rows, with --vocab")
    p.add_argument("--vocab", help="tokenizer.model")
    p.add_argument("--output", help="a file for the figures of all processes, as JSON lines")
    p.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return p


def main() -> None:
    """Runs a process for each word of --bits and prints a line for each."""
    given = parser().parse_args()
    if given.one:
        print("RESULT " + json.dumps(measure(given)))
        return
    for bits in given.bits.split(","):
        words = [word for word in sys.argv[1:] if word != "--one"]
        command = [sys.executable, __file__, *words, "--bits", bits, "--one"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
        if given.output:
            with Path(given.output).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"bits": bits, **found}) + "\n")
        losses = found.pop("losses")
        size = max(1, len(losses) // 8)
        means = [f"{statistics.mean(losses[i : i + size]):.3f}" for i in range(0, len(losses), size)]
        told = {key: round(value, 3) for key, value in found.items()}
        print(f"bits {bits}: {told}\n  losses (means of {size}): {' '.join(means)}", flush=True)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Figures of one process."""
    from mindformers_glm import runtime  # noqa: PLC0415 - the parent needs none of it
    from mindformers_glm.models.glm.config import ChatGLM2Config  # noqa: PLC0415
    from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration  # noqa: PLC0415
    from mindformers_glm.models.initial import fill, unfilled  # noqa: PLC0415
    from mindformers_glm.models.quantized import fill_integers, quantized_layers  # noqa: PLC0415
    from mindformers_glm.optim import AdamW, decay_groups  # noqa: PLC0415
    from mindformers_glm.train.step import TrainStep  # noqa: PLC0415

    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)
    vocabulary, hidden, layers, heads, kv_heads, ffn = map(int, given.shape.split(","))
    config = ChatGLM2Config(
        padded_vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_attention_heads=heads,
        multi_query_group_num=kv_heads,
        kv_channels=hidden // heads,
        ffn_hidden_size=ffn,
        seq_length=given.length,
        param_init_type="float32",
        compute_dtype=given.compute_dtype,
        embedding_type=given.embedding_type,
        quantization_bit=int(given.bits),
        recompute_config={"recompute": given.recompute == "all", "select_recompute": given.recompute == "select"},
        pet_config={
            "pet_type": "lora",
            "lora_rank": given.rank,
            "lora_alpha": 4 * given.rank,
            "lora_dropout": 0,
            "target_modules": given.targets,
        },
    )
    with unfilled():
        model = ChatGLM2ForConditionalGeneration(config)
    fill(model)
    if given.data and config.quantization_bit:  # the float weights of the same seed, as integers
        _take_floats(model, config, quantized_layers(model))
    else:
        fill_integers(model)
    optimizer = AdamW(decay_groups(model.trainable_params(), 0.0), learning_rate=given.learning_rate)
    step, losses, times = TrainStep(model, optimizer, max_grad_norm=1.0), [], []
    for batch in batches(given, vocabulary):
        begin = time.perf_counter()
        losses.append(step([batch], given.learning_rate).loss)
        times.append(time.perf_counter() - begin)
    usual = times[min(2, len(times) - 1) :]
    return {
        "seconds_a_step": statistics.median(usual),
        "fastest_step": min(usual),
        "first_step": times[0],
        "peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "trained": sum(parameter.size for parameter in model.trainable_params()),
        "losses": losses,
    }


def _take_floats(model: Any, config: Any, layers: dict[str, Any]) -> None:
    """Puts into a quantised network the weights that a float network begins with after the same seed."""
    from mindformers_glm import runtime  # noqa: PLC0415
    from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration  # noqa: PLC0415
    from mindformers_glm.models.initial import fill, unfilled  # noqa: PLC0415

    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)
    with unfilled():
        plain = ChatGLM2ForConditionalGeneration(config.model_copy(update={"quantization_bit": 0}))
    fill(plain)
    own = model.parameters_dict()
    for name, parameter in plain.parameters_dict().items():
        if name in layers:
            layers[name].take(parameter.asnumpy())
        else:
            own[name].set_data(parameter.value())


def batches(given: argparse.Namespace, vocabulary: int) -> Any:
    """As many batches as there are steps."""
    from mindformers_glm.data.batch import Batch  # noqa: PLC0415

    if not given.data:
        random = np.random.default_rng(0)
        ids = random.integers(0, vocabulary, (given.batch, given.length + 1)).astype(np.int32)
        for _ in range(given.steps):
            yield Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), np.arange(1, given.batch + 1))
        return
    from mindformers_glm.data.build import build_dataset  # noqa: PLC0415
    from mindformers_glm.registry import TOKENIZERS  # noqa: PLC0415

    tokenizer = TOKENIZERS.build({"type": "ChatGLM2Tokenizer", "vocab_file": given.vocab}, "tokenizer")
    section = {
        "data_loader": {"type": "ADGenDataLoader", "dataset_dir": given.data, "shuffle": True, "phase": "train"},
        "max_source_length": given.length // 2 - 1,
        "max_target_length": given.length - given.length // 2,
        "ignore_pad_token_for_loss": True,
    }
    dataset = build_dataset(
        section,
        task={"type": "KeyWordGenDataset"},
        seed=0,
        rank=0,
        rank_size=1,
        batch_size=given.batch,
        phase="train",
        tokenizer=tokenizer,
    )
    made = 0
    while made < given.steps:
        for batch in dataset.batches(made // len(dataset)):
            yield batch
            made += 1
            if made == given.steps:
                return


if __name__ == "__main__":
    main()
