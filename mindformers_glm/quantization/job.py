"""`mindformers-glm quantize`: rows through a model, its layers quantised for them, the gate, and a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mindspore import nn

from mindformers_glm import runtime
from mindformers_glm.assembly.configuration import changed, config_of
from mindformers_glm.assembly.network import load_network
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.tokenizer import load_tokenizer
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.evaluation.benchmarks import evaluate
from mindformers_glm.generation.generate import MindSporeEngine
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.quantization.assembled import (
    about_of,
    network_of,
    to_nearest,
    with_head_and_embedding,
    write_ascend_v1,
    write_ours,
)
from mindformers_glm.quantization.calibrate import Choice, Lost, calibrate, identity
from mindformers_glm.quantization.gate import (
    FloatSide,
    Verdict,
    check,
    measure,
    proposed,
    replies,
    report,
    write_report,
)
from mindformers_glm.quantization.interface import scheme_of
from mindformers_glm.quantization.texts import read_texts
from mindformers_glm.quantization.walk import Walk
from mindformers_glm.quantization.work import Work

_WHOLE_BYTES = 4 << 30  # a float32 model up to this size is loaded whole for the gate
_FORM = ("w8a8", "w8a8-sparse")  # schemes that are written as AscendV1


@dataclass
class Asked:
    """What the command line says."""

    checkpoint: str
    output: str
    choice: Choice
    rows: str | None = None
    head_bits: int = 8
    embedding_bits: int = 0
    max_length: int = 2048
    overwrite: bool = False
    form: str = "ours"
    gate: str | None = None
    gate_tokens: int = 4096
    bound: float = 0.01
    anyway: bool = False
    propose: bool = False
    ceval: str | None = None
    report: str | None = None
    shown: Callable[[int, str], Any] = field(default=lambda total, what: _silent)


def _silent() -> None:
    return None


class Job:
    """A model to quantise, with its rows."""

    def __init__(self, asked: Asked) -> None:
        """Reads what is needed to know that everything fits; no weight yet.

        Raises:
            UserError: the model is quantised or has no configuration, a file of texts cannot be read, or the scheme
                is not written so.
        """
        self.asked = asked
        _check_form(asked)
        parts = parts_of(asked.checkpoint)
        self.config: NetworkConfig = config_of(parts.base)
        if self.config.quantization_bit or self.config.quantization_scheme:
            raise CheckpointError(
                asked.checkpoint, "its weights are quantised already", "Start from the float weights."
            )
        self.source: WeightSource = parts.base.read()
        self.tokenizer = load_tokenizer(parts.base.name)
        self.tokenizer_folder = parts.base.files.tokenizer
        self.rows = [] if asked.rows is None else self._ids(asked.rows)[0]
        self.texts, self.begins = ([], []) if asked.gate is None else _within(*self._ids(asked.gate), asked.gate_tokens)
        self.float_side: FloatSide | None = None
        self.float_ceval: float | None = None
        self.lost: list[Lost] = []
        self.target(asked.choice)

    def target(self, choice: Choice) -> NetworkConfig:
        """The configuration of the quantised network.

        Raises:
            ConfigError: sizes that the scheme cannot hold, or layers that are not there.
        """
        strange = [layer for layer in choice.float_layers if layer >= self.config.num_layers]
        if strange:
            fix = f"The model has layers 0 to {self.config.num_layers - 1}."
            raise ConfigError("--float_layers_id", strange[0], fix)
        keys = choice.scheme.network_keys(choice.group_size or None)
        if not keys["quantization_bit"]:
            return self.config
        if choice.float_layers or choice.float_linears:
            fix = f"Layers stay float with W8A8 alone: leave it out for {choice.scheme.name}."
            raise ConfigError("--float_layers_id", sorted(choice.float_layers), fix)
        bits = {
            "quantization_head_bits": self.asked.head_bits,
            "quantization_embedding_bits": self.asked.embedding_bits,
        }
        return changed(self.config, {**keys, **bits})

    def run(self) -> Path:
        """Quantises, looks through the gate where it is asked for, and writes.

        Raises:
            UserError: the network loses more than it may, or the place is taken.
        """
        asked = self.asked
        _check_place(asked)
        runtime.set_up({"device_target": "CPU", "mode": 1})  # PyNative: what flows is looked at
        chosen = asked.choice
        tried: list[Verdict] = []
        if self.texts:
            self._look_at_floats()
            if asked.propose:
                chosen, tried = self._propose(chosen)
        with self._made(chosen, "") as made:
            if self.texts:
                verdict = self._judged(chosen, made)
                tried = [verdict, *(one for one in tried if _same(one) != _same(verdict))]
                self._tell(tried)
                proposal = proposed(tried, asked.bound)
                check(verdict, asked.bound, anyway=asked.anyway, output=asked.output, proposal=proposal)
            return self._write(chosen, made)

    def _write(self, choice: Choice, made: dict[str, Any]) -> Path:
        asked = self.asked
        options: dict[str, Any] = {"tokenizer": self.tokenizer_folder, "overwrite": asked.overwrite}
        if choice.scheme.name in _FORM:
            return write_ascend_v1(asked.output, self.source, self.config, made, **options)
        return write_ours(asked.output, self.source, self.target(choice), made, form=asked.form, **options)

    @contextmanager
    def _made(self, choice: Choice, suffix: str) -> Iterator[dict[str, Any]]:
        """The tensors of a choice, in a folder of work beside the output, which is kept where this is interrupted."""
        asked, config = self.asked, self.target(choice)
        if not self.rows:
            found, self.lost = to_nearest(self.source, config, choice)
            yield with_head_and_embedding(self.source, config, found)
            return
        work = Work(asked.output + suffix, identity(self.source, self.rows, choice))
        walk = Walk(self.source, self.config, self.rows)
        twice = choice.feeds_errors and "rows" not in choice.scheme.needs
        steps = (self.config.num_layers - work.done) * len(self.rows) * (2 if twice else 1)
        shown = asked.shown(steps, choice.scheme.name)
        self.lost = calibrate(walk, work, choice, shown=shown)
        yield with_head_and_embedding(self.source, config, work.tensors())
        work.remove()

    def _look_at_floats(self) -> None:
        shown = self.asked.shown(self.config.num_layers, "float model")
        self.float_side = FloatSide(Walk(self.source, self.config, self.texts), self.begins, shown=shown)
        size = sum(4 * _count(self.source.shape(name)) for name in self.source.names)
        if size <= _WHOLE_BYTES:
            wide = {"param_init_type": "float32", "compute_dtype": "float32"}
            engine = MindSporeEngine(load_network(self.asked.checkpoint, config=changed(self.config, wide)))
            self.float_side.replies = replies(engine, self.float_side.prompts, 16)
            self.float_ceval = self._ceval(engine)

    def _judged(self, choice: Choice, made: dict[str, Any]) -> Verdict:
        """The verdict on what was made."""
        assert self.float_side is not None
        network: nn.Cell = network_of(self.source, self.target(choice), made)
        engine = MindSporeEngine(network)
        verdict = measure(self.float_side, engine, choice.scheme.name)
        verdict.float_layers, verdict.float_linears = sorted(choice.float_layers), list(choice.float_linears)
        verdict.group_size = choice.group_size
        verdict.bytes = about_of(self.config, made)["bytes"] + self._float_bytes(choice)
        verdict.ceval, verdict.ceval_float = self._ceval(engine), self.float_ceval
        return verdict

    def _float_bytes(self, choice: Choice) -> int:
        """Bytes, as float16, of linear layers that stay float."""
        total = 0
        for name in self.source.names:
            number = next((int(part) for part in name.split(".") if part.isdigit()), None)
            if number is not None and name.endswith(".weight") and len(self.source.shape(name)) == 2:
                layer = name.removesuffix(".weight")
                total += 2 * _count(self.source.shape(name)) if choice.stays_float(layer, number) else 0
        return total

    def _ceval(self, engine: MindSporeEngine) -> float | None:
        if self.asked.ceval is None:
            return None
        found = evaluate(engine, self.tokenizer, ["ceval-valid"], data_dir=self.asked.ceval, limit=5)
        return float(found["groups"]["ceval-valid"]["acc,none"])

    def _propose(self, chosen: Choice) -> tuple[Choice, list[Verdict]]:
        """The smallest that keeps the bound among what was asked for, groups, and layers that stay float."""
        tried: list[Verdict] = []
        choices: dict[tuple[Any, ...], Choice] = {}
        for number, choice in enumerate(self._candidates(chosen)):
            with self._made(choice, f".try{number}") as made:
                verdict = self._judged(choice, made)
            tried.append(verdict)
            choices[_same(verdict)] = choice
            if verdict.kl <= self.asked.bound and not choice.scheme.network_keys(None)["quantization_bit"]:
                break  # those that follow keep more as floats
        best = proposed(tried, self.asked.bound)
        return (chosen if best is None else choices[_same(best)]), tried

    def _candidates(self, chosen: Choice) -> Iterator[Choice]:
        if chosen.scheme.network_keys(None)["quantization_bit"]:
            widths = (self.config.hidden_size, self.config.ffn_hidden_size)
            for group in sorted(chosen.scheme.group_sizes, reverse=True):
                if not group or not any(width % group for width in widths):
                    yield replace(chosen, group_size=group)
            return
        yield chosen
        worst = sorted(self.lost, key=lambda row: -row.outputs)
        kinds = list(dict.fromkeys(row.name.rpartition(".")[2] for row in worst))
        without = replace(chosen, float_linears=(*chosen.float_linears, kinds[0]))
        yield without
        order = list(dict.fromkeys(_number(row.name) for row in worst))
        count = 1
        while count < len(order):
            yield replace(chosen, float_layers=chosen.float_layers | set(order[:count]))
            count *= 2
        if len(order) > 1:
            yield replace(without, float_layers=chosen.float_layers | set(order[: len(order) // 2]))

    def _tell(self, tried: Sequence[Verdict]) -> None:
        asked = self.asked
        content = report(tried, self.lost, asked.bound, proposed(tried, asked.bound))
        content["seconds"] = round(time.process_time(), 1)
        place = asked.report or f"{asked.output}_gate"
        files = write_report(place, content)
        for verdict in tried:
            print(verdict.line())
        print(f"report: {', '.join(map(str, files))}")

    def _ids(self, path: str) -> tuple[list[list[int]], list[int]]:
        """The ids of each row, and how many of them come before the reply."""
        rows, begins = [], []
        for text in read_texts(path):
            seen = list(map(int, self.tokenizer.encode(text.text)))
            ids = list(map(int, self.tokenizer.encode(text.text + text.reply))) if text.reply else seen
            if text.reply:
                ids = [*ids, self.tokenizer.eos_token_id]
            ids = ids[: self.asked.max_length]
            if len(ids) > 1:
                rows.append(ids)
                begins.append(min(len(seen), len(ids) - 1) if text.reply else 1)
        return rows, begins


def _within(rows: list[list[int]], begins: list[int], most: int) -> tuple[list[list[int]], list[int]]:
    """As many first rows as have so many tokens together, and one at least."""
    kept, total = 0, 0
    for row in rows:
        if kept and total + len(row) > most:
            break
        kept, total = kept + 1, total + len(row)
    return rows[:kept], begins[:kept]


def choice_of(scheme: str, **settings: Any) -> Choice:
    """A choice by the name of its scheme.

    Raises:
        ConfigError: no such scheme or group.
    """
    found = scheme_of(scheme, "--scheme")
    return Choice(found, group_size=found.group(settings.pop("group_size", None), "--group_size"), **settings)


def _check_form(asked: Asked) -> None:
    scheme = asked.choice.scheme
    if scheme.name in _FORM:
        if asked.form != "ours":
            raise ConfigError("--to", asked.form, f"{scheme.name} is written as AscendV1: leave it out.")
    elif not scheme.network_keys(asked.choice.group_size or None)["quantization_bit"]:
        fix = "It needs no folder: load the float model with quantization_scheme."
        raise ConfigError("--scheme", scheme.name, fix)


def _check_place(asked: Asked) -> None:
    if Path(asked.output).exists() and not asked.overwrite:
        raise CheckpointError(asked.output, "it exists", "Name another folder, or add --overwrite.")


def _same(verdict: Verdict) -> tuple[Any, ...]:
    return (verdict.scheme, verdict.group_size, tuple(verdict.float_layers), tuple(verdict.float_linears))


def _number(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
