"""Trains glm2_tiny from scratch: writes model.safetensors (float16) and config.yaml beside tokenizer.model.

python -m tools.glm2_tiny.train corpus.jsonl mindformers_glm/assets/glm2_tiny --steps 4000

Progress is kept in <work>/state.ckpt; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
import yaml
from mindspore import Tensor, nn, ops

from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt, save_ckpt
from mindformers_glm.checkpoint.formats.safetensors_file import write_safetensors
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.model_files import to_yaml
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.cli.report import report
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.optim.adam import AdamW
from mindformers_glm.optim.groups import decay_groups
from mindformers_glm.tokenizers.chatglm import ChatGLM2Tokenizer

SHAPE = {
    "num_layers": 4,
    "padded_vocab_size": 4096,
    "hidden_size": 192,
    "ffn_hidden_size": 640,
    "kv_channels": 32,
    "num_attention_heads": 6,
    "multi_query_group_num": 2,
    "seq_length": 512,
    "param_init_type": "float32",
    "compute_dtype": "float32",
    "max_decode_length": 256,
    "do_sample": False,
}
LENGTHS = (40, 64, 88, 112, 144, 288)  # one compiled graph each
IGNORED = -100


class Sample(NamedTuple):
    """Ids, and the label of every position (already shifted)."""

    ids: list[int]
    labels: list[int]


def encode(row: dict, tokenizer: ChatGLM2Tokenizer) -> Sample:
    """One corpus line: of a conversation the last answer is learned, of plain text everything."""
    if "text" in row:
        ids = tokenizer.encode(row["text"]) + [tokenizer.eos_token_id]
        return Sample(ids[:-1], ids[1:])
    *history, (ask, answer) = row["turns"]
    prompt = tokenizer.encode(tokenizer.build_prompt(ask, [tuple(turn) for turn in history]))
    reply = tokenizer.encode(answer, add_special_tokens=False) + [tokenizer.eos_token_id]
    return Sample((prompt + reply)[:-1], [IGNORED] * (len(prompt) - 1) + reply)


def samples(path: Path, tokenizer: ChatGLM2Tokenizer) -> Iterator[Sample]:
    """The corpus again and again."""
    while True:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield encode(json.loads(line), tokenizer)


def batches(source: Iterator[Sample], tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of one length from LENGTHS, about `tokens` a batch; a batch leaves as soon as its length has enough rows."""
    waiting: dict[int, list[Sample]] = {length: [] for length in LENGTHS}
    for sample in source:
        length = next((length for length in LENGTHS if len(sample.ids) <= length), None)
        if length is None:
            continue
        rows = waiting[length]
        rows.append(sample)
        if len(rows) == tokens // length:
            ids, labels = np.zeros((len(rows), length), np.int32), np.full((len(rows), length), IGNORED, np.int32)
            for i, row in enumerate(rows):
                ids[i, : len(row.ids)], labels[i, : len(row.labels)] = row.ids, row.labels
            waiting[length] = []
            yield ids, labels


class Step(nn.Cell):
    """One update: loss, gradients, clipping to norm 1, AdamW. Returns the loss."""

    def __init__(self, model: nn.Cell, optimizer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.gradients = ops.value_and_grad(model, None, optimizer.parameters)

    def construct(self, ids: Tensor, labels: Tensor) -> Tensor:
        """The loss of ids and labels (B, T)."""
        loss, gradients = self.gradients(ids, labels)
        total = Tensor(0.0, ms.float32)
        for gradient in gradients:
            total = total + ops.ReduceSum()(ops.square(gradient))
        scale = ops.minimum(Tensor(1.0, ms.float32), 1.0 / (ops.sqrt(total) + 1e-6))
        clipped = ()
        for gradient in gradients:
            clipped += (gradient * scale,)
        return ops.depend(loss, self.optimizer(clipped))


def rate(step: int, steps: int, peak: float, warm: int = 100) -> float:
    """Learning rate: linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def states(model: nn.Cell, optimizer: nn.Cell) -> dict[str, ms.Parameter]:
    """Everything that a resumed run needs, by name."""
    moments = (*optimizer.moments1, *optimizer.moments2, optimizer.global_step)
    return {parameter.name: parameter for parameter in (*model.trainable_params(), *moments)}


def restore(path: Path, parameters: dict[str, ms.Parameter]) -> int:
    """Sets the parameters from `path` and returns how many steps they have seen; 0 without the file."""
    if not path.exists():
        return 0
    source = open_ckpt(path)
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(source.read_bits(name).reshape(parameter.shape), parameter.dtype))
    return int(source.metadata["step"])


def export(model: nn.Cell, config: ChatGLM2Config, folder: Path) -> None:
    """Writes model.safetensors in float16, and config.yaml."""
    rows = [(p.name, "float16", p.asnumpy().astype(np.float16)) for p in model.trainable_params()]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "model.safetensors") as file:
        write_safetensors(file, rows, {"format": "mf10"})
    write_text(folder / "config.yaml", yaml.safe_dump(to_yaml(config), sort_keys=False))


def run(given: argparse.Namespace) -> None:
    """The training run."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    ms.set_seed(given.seed)
    assets, work = Path(given.assets), Path(given.work)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = ChatGLM2Tokenizer(str(assets / "tokenizer.model"))
    config = ChatGLM2Config(**SHAPE)
    model = ChatGLM2ForConditionalGeneration(config)
    optimizer = AdamW(decay_groups(model.trainable_params(), 0.01), learning_rate=0.0, beta1=0.9, beta2=0.98)
    step_cell = Step(model, optimizer).set_train()
    parameters = states(model, optimizer)
    begin = restore(work / "state.ckpt", parameters)
    if given.init and not begin:
        load_into(model, read_weights(given.init))
    print(f"{sum(p.size for p in model.trainable_params()):,} parameters, step {begin} of {given.steps}", flush=True)
    source = batches(samples(Path(given.corpus), tokenizer), given.tokens)
    log, started, seen = [], time.time(), 0
    for step in range(given.steps):
        ids, labels = next(source)
        if step < begin:
            continue
        ops.assign(optimizer.learning_rate, Tensor(rate(step, given.steps, given.peak), ms.float32))
        loss = float(step_cell(Tensor(ids), Tensor(labels)).asnumpy())
        seen += ids.size
        log.append((step + 1, loss, ids.shape[1], round(time.time() - started, 1)))
        if (step + 1) % 20 == 0:
            mean = np.mean([row[1] for row in log[-20:]])
            speed = seen / (time.time() - started)
            print(f"step {step + 1} loss {mean:.4f} {speed:.0f} tokens/s {time.time() - started:.0f} s", flush=True)
        if (step + 1) % given.save_steps == 0 or step + 1 == given.steps:
            save_ckpt(work / "state.ckpt", {k: p.asnumpy() for k, p in parameters.items()}, {"step": str(step + 1)})
            with (work / "loss.csv").open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(log)
            log = log[:0]
    export(model, config, assets)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("assets", help="folder with tokenizer.model; weights and configuration are written there")
    parser.add_argument("--init", help="weights to start from in place of random ones")
    parser.add_argument("--work", default="output/glm2_tiny", help="folder of the resumable state and the loss curve")
    parser.add_argument("--steps", type=whole(), default=4000)
    parser.add_argument("--tokens", type=whole(max(LENGTHS)), default=2304, help="tokens of a batch, padding included")
    parser.add_argument("--peak", type=number(above=True), default=2e-3, help="highest learning rate")
    parser.add_argument("--save_steps", type=whole(), default=200)
    parser.add_argument("--seed", type=whole(0), default=0)
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(report(main))
