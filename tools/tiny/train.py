"""Trains a small model on a corpus, in pieces that go on where the last one ended.

python -m tools.tiny.train work --family glm3 --steps 14000

`work` holds corpus.jsonl and tokenizer.model; this writes rows.npy, state.ckpt, loss.csv and, at the end, model/.
The learning rate is constant and falls in the last part; stable.ckpt is the state before it falls, from which a longer
run goes on as if it had been planned.
"""

from __future__ import annotations

import argparse
import csv
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import mindspore as ms
import numpy as np
import yaml
from mindspore import Tensor

from mindformers_glm import runtime
from mindformers_glm.checkpoint.formats.mindspore_ckpt import open_ckpt, save_ckpt
from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors, write_safetensors
from mindformers_glm.checkpoint.load.model_files import read_config, to_yaml
from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.cli.report import report
from mindformers_glm.config.names import ASSETS
from mindformers_glm.files import atomic_write, write_text
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.optim.adam import AdamW
from mindformers_glm.optim.groups import decay_groups
from mindformers_glm.tokenizers.chatglm import ChatGLM2Tokenizer
from mindformers_glm.train.step import TrainStep
from tools.tiny import rows as packed
from tools.tiny.families import FAMILIES, Family
from tools.tiny.grow import grown, pieces_of
from tools.tiny.seed import seeded

WARM = 100
START = ASSETS / "glm2_tiny"


def rate(step: int, steps: int, peak: float, decay: float) -> float:
    """Learning rate of a step: linear warm-up, constant, and linear down to a fiftieth in the last part `decay`."""
    begin = round(steps * (1 - decay))
    if step < WARM:
        return peak * (step + 1) / WARM
    return peak * (1 - 0.98 * max(0, step - begin) / max(1, steps - begin))


def grown_glm2(family: Family, tokenizer_path: Path) -> dict[str, np.ndarray]:
    """Weights to begin with: those of the packaged glm2_tiny in the network and the vocabulary of the family."""
    source = open_safetensors(START / "model.safetensors")
    small = read_config(START / "config.yaml")[0]
    assert isinstance(small, ChatGLM2Config)
    old, new = ChatGLM2Tokenizer(str(START / "tokenizer.model")), family.reads(tokenizer_path)
    same = {number: [] for number in new.vocabulary.special_ids.values()}
    same |= {new.vocabulary.special_ids[name]: [number] for name, number in old.vocabulary.special_ids.items()}
    pieces = pieces_of(new.vocabulary.processor, old.vocabulary.processor, same)
    return grown({name: source.read_bits(name) for name in source.entries}, small, family.config(), pieces)


class Run:
    """One network in training, with what it needs to go on."""

    def __init__(
        self,
        family: Family,
        work: Path,
        *,
        steps: int,
        batch: int,
        peak: float,
        decay: float,
        drill: float,
        grows: bool,
    ) -> None:
        self.family, self.work, self.steps, self.batch = family, work, steps, batch
        self.peak, self.decay = peak, decay
        self.model = ChatGLM2ForConditionalGeneration(family.config())
        self.optimizer = AdamW(decay_groups(self.model.trainable_params(), 0.02), learning_rate=0.0, beta2=0.98)
        moments = (*self.optimizer.moments1, *self.optimizer.moments2, self.optimizer.global_step)
        self.parameters = {parameter.name: parameter for parameter in (*self.model.trainable_params(), *moments)}
        self.done = self._restored()
        if not self.done:
            shapes = {p.name: p.shape for p in self.model.trainable_params()}
            tokens = work / "tokenizer.model"
            first = grown_glm2(family, tokens) if grows else seeded(shapes, family.config())
            for name, value in first.items():
                self.parameters[name].set_data(Tensor(value, self.parameters[name].dtype))
        self.vocabulary = family.reads(work / "tokenizer.model").vocabulary.text_size
        self.drill = drill
        self.step = TrainStep(self.model, self.optimizer, max_grad_norm=1.0)

    def _restored(self) -> int:
        path = self.work / "state.ckpt"
        if not path.exists():
            return 0
        source = open_ckpt(path)
        for name, parameter in self.parameters.items():
            parameter.set_data(Tensor(source.read_bits(name).reshape(parameter.shape), parameter.dtype))
        return int(source.metadata["step"])

    def save(self, name: str = "state.ckpt") -> None:
        """Writes the state of this step."""
        save_ckpt(self.work / name, {k: p.asnumpy() for k, p in self.parameters.items()}, {"step": str(self.done)})

    def go_on(self, save_steps: int, until: int) -> None:
        """Trains up to step `until`, or until SIGTERM or SIGINT, then saves."""
        rows = packed.write(
            self.work / "corpus.jsonl", self.family, self.work / "tokenizer.model", self.work / "rows.npy"
        )
        filled = float((np.asarray(rows[:200, 2]) != -100).mean())
        size = sum(p.size for p in self.model.trainable_params())
        told = f"{size:,} parameters; {len(rows)} rows of {packed.LENGTH} tokens"
        print(f"{told}, {100 * filled:.0f} % of them learned; step {self.done} of {self.steps}", flush=True)
        stopped: list[int] = []

        def stop(signum: int, frame: FrameType | None) -> None:
            stopped.append(signum)

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, stop)
        log, started, first = [], time.monotonic(), self.done
        while self.done < until and not stopped:
            now = rate(self.done, self.steps, self.peak, self.decay)
            made = packed.batch(rows, self.done, self.batch, drill=self.drill, vocabulary=self.vocabulary)
            result = self.step([made], now)
            self.done += 1
            spent = time.monotonic() - started
            log.append((self.done, round(result.loss, 5), round(result.grad_norm, 4), f"{now:.3e}", round(spent, 1)))
            if self.done % 20 == 0:
                speed = (self.done - first) * self.batch * packed.LENGTH / spent
                mean = np.mean([row[1] for row in log[-20:]])
                print(f"step {self.done} loss {mean:.4f} {speed:.0f} tokens/s {spent:.0f} s", flush=True)
            if self.done == round(self.steps * (1 - self.decay)):
                self.save("stable.ckpt")
            if self.done % save_steps == 0 or self.done >= until or stopped:
                self.save()
                with (self.work / "loss.csv").open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(log)
                log = []

    def export(self, folder: Path) -> None:
        """Writes model.safetensors in float16, config.yaml and tokenizer.model."""
        rows = [(p.name, "float16", p.asnumpy().astype(np.float16)) for p in self.model.trainable_params()]
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "model.safetensors") as file:
            write_safetensors(file, rows, {"format": "mf10"})
        described = to_yaml(self.family.shipped())
        if self.family.tokenizer is not ChatGLM2Tokenizer:  # that of a ChatGLM2Config where none is named
            described["processor"] = {"tokenizer": {"type": self.family.tokenizer.__name__}}
        write_text(folder / "config.yaml", yaml.safe_dump(described, sort_keys=False))
        with atomic_write(folder / "tokenizer.model") as file:
            file.write((self.work / "tokenizer.model").read_bytes())


def run(given: argparse.Namespace) -> Run:
    """Trains and exports; returns the run."""
    runtime.set_up({"mode": ms.GRAPH_MODE, "device_target": "CPU"}, seed=given.seed)
    work = Path(given.work)
    one = Run(
        FAMILIES[given.family],
        work,
        steps=given.steps,
        batch=given.batch,
        peak=given.peak,
        decay=given.decay,
        drill=given.drill,
        grows=given.grow,
    )
    one.go_on(given.save_steps, min(given.until or given.steps, given.steps))
    one.export(work / "model")
    return one


def options(parser: Parser) -> None:
    """What a training can be told."""
    parser.add_argument("work", help="the folder with corpus.jsonl and tokenizer.model; everything is written there")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="glm3")
    parser.add_argument("--steps", type=whole(), default=14000)
    parser.add_argument("--until", type=whole(), help="end this piece at this step")
    parser.add_argument("--batch", type=whole(), default=2, help=f"rows of {packed.LENGTH} tokens in a step")
    parser.add_argument("--peak", type=number(above=True), default=1.5e-3, help="highest learning rate")
    parser.add_argument(
        "--decay", type=number(), default=0.3, help="the last part of the steps, in which the rate falls"
    )
    parser.add_argument("--drill", type=number(0, 1), default=0.05, help="of the rows teach copying alone")
    parser.add_argument("--save_steps", type=whole(), default=200)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--grow", action="store_true", help="begin with glm2_tiny's weights, made wider and deeper")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    options(parser)
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(report(main))
