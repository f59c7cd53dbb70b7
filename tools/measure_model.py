#!/usr/bin/env python3
"""A registered model in its true shape, with random weights of 4 or 8 bits: does it open, how fast does it answer?

    python tools/measure_model.py make glm_edge_1_5b edge --bits 4 --vocabulary glm-4-9b/tokenizer.model
    python -m mindformers_glm.benchmark start --model edge --steps 2
    python tools/measure_model.py run edge --context 512 --steps 32
    python tools/measure_model.py train edge --length 128 --steps 2

`make` writes a folder as tools/quantize_model.py does, a weight at a time, without ever holding the floats; the vocabulary
is cut to as many ranks as the model has. `run` says tokens per second and the largest memory of its process, `train`
the same of LoRA steps on the integers. Random weights are as quick as trained ones, and say nothing that makes sense.
"""  # noqa: E501 - commands

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the folder")
    make.add_argument("name")
    make.add_argument("folder")
    make.add_argument("--bits", type=int, default=4, choices=(4, 8))
    make.add_argument("--vocabulary", help="tokenizer.model of GLM-4")
    for name in ("run", "train"):
        one = commands.add_parser(name)
        one.add_argument("folder")
        one.add_argument("--steps", type=int, default=32 if name == "run" else 2)
        one.add_argument("--context" if name == "run" else "--length", dest="length", type=int, default=512)
        one.add_argument("--cache_dtype", default="float32")
    return p


def main() -> None:
    """Prints figures as one JSON line."""
    given = parser().parse_args()
    print(json.dumps({"make": make, "run": run, "train": train}[given.command](given)))


def make(given: argparse.Namespace) -> dict:
    """Writes the folder."""
    from mindformers_glm import AutoConfig
    from mindformers_glm.checkpoint.convert.plan import plan_conversion
    from mindformers_glm.checkpoint.convert.run import run_plan
    from mindformers_glm.config.names import published_length

    begin = time.monotonic()
    changes = {"quantization_bit": given.bits, "compute_dtype": "float32", "checkpoint_name_or_path": None}
    config = AutoConfig.from_pretrained(given.name, seq_length=min(published_length(given.name) or 8192, 8192))
    config = type(config)(**{**config.model_dump(exclude_unset=True), **changes})
    source = RandomWeights(config)
    folder = run_plan(plan_conversion(source, given.folder, "ours", config=config))
    if given.vocabulary:
        lines = Path(given.vocabulary).read_bytes().splitlines(keepends=True)
        ranks = config.eos_token_ids[0]  # the first special token comes after the last rank
        (folder / "tokenizer.model").write_bytes(b"".join(lines[:ranks]))
    size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"folder": str(folder), "bytes": size, "seconds": time.monotonic() - begin}


class RandomWeights:
    """A source for conversions: integers from all their values, scales that keep activations of a usual size."""

    def __init__(self, config) -> None:
        from mindformers_glm.models.naming import expected_shapes

        self.path, self.config, self._shapes = Path("random"), config, expected_shapes(config)

    @property
    def names(self) -> list[str]:
        """Our names of all weights."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """Type of one: integers where it has scales."""
        if name.endswith("_scale"):
            return "float16"
        if name + "_scale" not in self._shapes:
            return "float32" if len(self._shapes[name]) == 1 else "bfloat16"
        bits = self.config.quantization_bit
        is_packed = bits == 4 and self._shapes[name][1] < self._columns(name)
        return "uint8" if is_packed else "int8"

    def _columns(self, name: str) -> int:
        return self._shapes[name + "_scale"][1] * self.config.quantization_group_size

    def read_bits(self, name: str) -> np.ndarray:
        """The whole of one."""
        rng, shape = np.random.default_rng(abs(hash(name)) % 2**32), self._shapes[name]
        kind = self.dtype(name)
        if kind == "float16":
            whole = self.dtype(name.removesuffix("_scale"))
            return np.full(shape, 0.02 / (4.6 if whole == "uint8" else 73), np.float16)
        if kind in ("uint8", "int8"):
            return rng.integers(0, 256, shape, np.uint8).view(kind)
        if kind == "bfloat16":
            return (rng.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return np.full(shape, 1.0 if "norm" in name else 0.0, np.float32)

    def blocks(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows as flat blocks."""
        yield np.ascontiguousarray(self.read_bits(name)[start:stop]).reshape(-1)


def run(given: argparse.Namespace) -> dict:
    """A prompt of `length` tokens and `steps` single ones."""
    from mindformers_glm import AutoModel
    from mindformers_glm.generation import GenerationConfig, MindSporeEngine, generate
    from mindformers_glm.ops.kernels.library import library

    begin = time.monotonic()
    model = AutoModel.from_pretrained(given.folder)
    options = {} if library() is None else {"cache_dtype": given.cache_dtype}
    engine = MindSporeEngine(model, **options)
    opened = time.monotonic()
    rng, moments = np.random.default_rng(0), []
    ids = rng.integers(3, engine.vocab_size, given.length).tolist()
    config = GenerationConfig(max_new_tokens=given.steps + 1, eos_token_id=[])
    asked = time.monotonic()
    generate(engine, [ids], config, on_token=lambda *_: moments.append(time.monotonic()))
    steps = np.diff(moments)
    return {
        "open_s": opened - begin,
        "first_token_s": moments[0] - asked,
        "prefill_tokens_per_s": given.length / (moments[0] - asked),
        "decode_tokens_per_s": len(steps) / sum(steps) if len(steps) else None,
        "cache_dtype": given.cache_dtype,
        "network": type(engine.network).__name__,
        "peak_bytes": peak_bytes(),
    }


def train(given: argparse.Namespace) -> dict:
    """Steps of LoRA, rank 8, on every linear layer, one row at a time."""
    from mindformers_glm import AutoModel, runtime
    from mindformers_glm.adapters.lora import add_lora
    from mindformers_glm.data.batch import Batch
    from mindformers_glm.optim import AdamW, decay_groups
    from mindformers_glm.train.step import TrainStep

    pet = {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"}
    runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)
    begin = time.monotonic()
    model = add_lora(AutoModel.from_pretrained(given.folder, seq_length=given.length), pet)
    model.set_loss()
    opened = time.monotonic()
    optimizer = AdamW(decay_groups(model.trainable_params(), 0.0), learning_rate=1e-4)
    step, losses, seconds = TrainStep(model, optimizer, max_grad_norm=1.0), [], []
    ids = np.random.default_rng(0).integers(3, model.config.padded_vocab_size, (1, given.length + 1)).astype(np.int32)
    for _ in range(given.steps + 1):
        before = time.monotonic()
        losses.append(step([Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), np.arange(1))], 1e-4).loss)
        seconds.append(time.monotonic() - before)
    usual = statistics.median(seconds[1:])  # the first one compiles
    return {
        "open_s": opened - begin,
        "first_step_s": seconds[0],
        "step_s": usual,
        "tokens_per_s": given.length / usual,
        "trained": sum(parameter.size for parameter in model.trainable_params()),
        "losses": losses,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Largest memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
