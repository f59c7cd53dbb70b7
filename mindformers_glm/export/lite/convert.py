"""Lite's own model file (.ms) of an export, quantised or not, with a report of what that costs in accuracy."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.errors import CheckpointError, ConfigError, DeviceError
from mindformers_glm.export.lite.engine import LiteChat, open_lite
from mindformers_glm.export.lite.interpreter import find_python
from mindformers_glm.export.lite.process import Worker
from mindformers_glm.export.lite.quantizations import QUANTIZATIONS, Quantization
from mindformers_glm.export.manifest import Graph, Manifest, check_file, describe, find_manifest
from mindformers_glm.files import write_text
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.log import logger
from mindformers_glm.tokenizers.glm import GLMTokenizer

_TOKENS = 64  # of each prompt's continuation that the report compares
_PROMPTS = ("类型#裙*颜色#红色*风格#复古", "你好", "请介绍一下这款上衣的特点。")


class Report(NamedTuple):
    """A quantised model beside float32, over the same tokens. Errors are of logits, `spread` is their deviation."""

    file: str
    quantization: str
    bytes: int
    float32_bytes: int
    seconds: float
    tokens: int
    same_top: int
    largest_error: float
    mean_error: float
    spread: float
    step_ms: float
    float32_step_ms: float

    def lines(self) -> list[str]:
        """The report for people."""
        saved = f"{self.bytes / 1e6:.1f} MB, {self.bytes / self.float32_bytes:.0%} of float32"
        return [
            f"{self.file}: {self.quantization}, {saved}, converted in {self.seconds:.1f} s",
            f"most probable token equal at {self.same_top} of {self.tokens} positions",
            f"error of logits: mean {self.mean_error:.3g}, largest {self.largest_error:.3g} (spread {self.spread:.3g})",
            f"one token: {self.step_ms:.1f} ms, float32 {self.float32_step_ms:.1f} ms",
        ]


def convert_lite(
    path: str | Path,
    *,
    quantization: str = "none",
    lite_python: str | None = None,
    optimize: str = "",
    prompts: Sequence[str] | None = None,
    threads: int | None = None,
    seconds: float = 3600.0,
) -> Report:
    """Converts an export, enters the file in its manifest, and measures it against float32.

    `<name>[_<quantization>].ms` and `..._report.json` appear beside the graphs. `optimize` goes to the Converter
    ("general", or "ascend_oriented:910b" with a newer Lite).

    Raises:
        ConfigError: no such quantization.
        CheckpointError: not an export, or one without a graph for this Lite.
        DeviceError: no Lite, or it cannot convert or load the result, which is then removed.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigError("quantization", quantization, f"Use one of {', '.join(QUANTIZATIONS)}.")
    manifest, folder, _ = find_manifest(path)
    source = _source(manifest, folder)
    name = manifest.name + ("" if quantization == "none" else f"_{quantization}")
    begin = time.perf_counter()
    how = QUANTIZATIONS[quantization]
    how = how._replace(config=how.config.replace("{exact}", ",".join(source.exact)))
    made = _convert(folder / source.name, folder / name, how, lite_python, optimize, seconds)
    took = time.perf_counter() - begin
    quantised = None if quantization == "none" else quantization
    entry = Graph(**describe(made), mind_ir=0, roles=source.roles, inputs=source.inputs, quantization=quantised)
    manifest.graphs = [*(graph for graph in manifest.graphs if graph.name != entry.name), entry]
    manifest.save(folder)
    open_options = {"lite_python": lite_python, "threads": threads, "seconds": seconds}
    try:
        report = _compare(folder / source.name, made, entry, prompts or _PROMPTS, took, open_options)
    except DeviceError:
        manifest.graphs.remove(entry)
        manifest.save(folder)
        _remove(made)
        raise
    write_text(folder / f"{name}_report.json", json.dumps(report._asdict(), indent=2) + "\n")
    for line in report.lines():
        logger.info("%s", line)
    return report


def _source(manifest: Manifest, folder: Path) -> Graph:
    for graph in manifest.graphs:
        if graph.mind_ir == 1:
            check_file(folder, graph)
            return graph
    fault = "the export has no graph for the Converter of Lite 2.0 (MindIR version 1)"
    raise CheckpointError(str(folder), fault, "Export again with infer.for_lite_2_0: True")


def _convert(
    source: Path, target: Path, how: Quantization, lite_python: str | None, optimize: str, seconds: float
) -> Path:
    """Runs the Converter in a process of its own, and puts what it wrote in place when it is whole."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting_") as place:
        options: dict[str, Any] = {
            "kind": "ms",
            "optimize": optimize,
            "weight_fp16": how.weight_fp16,
            "config_file": "",
        }
        if how.config:
            file = Path(place) / "quantization.cfg"
            file.write_text(how.config)
            options["config_file"] = str(file)
        with contextlib.closing(Worker(find_python(lite_python), seconds=seconds)) as worker:
            worker.convert(str(source.resolve()), str(Path(place).resolve() / target.name), options)
        written = [file for file in Path(place).iterdir() if file.suffix in (".ms", ".msw")]
        if not any(file.suffix == ".ms" for file in written):
            raise DeviceError(f"MindSpore Lite: the Converter wrote nothing for {source.name}")
        for file in sorted(written, reverse=True):  # weights before the model that needs them
            file.chmod(0o644)
            shutil.move(file, target.parent / file.name)
    return target.parent / (target.name + ".ms")


def _remove(path: Path) -> None:
    for file in (path, path.with_suffix(".msw")):
        file.unlink(missing_ok=True)


class _Run(NamedTuple):
    logits: np.ndarray
    step_ms: float


def _compare(
    source: Path, made: Path, entry: Graph, prompts: Sequence[str], took: float, options: dict[str, Any]
) -> Report:
    with open_lite(source, prefer_converted=False, **options) as lite:
        rows = [_prompt_ids(lite.tokenizer, text, lite.config.padded_vocab_size) for text in prompts]
        rows = [row + _continuation(lite, row) for row in rows]
        plain = _run(lite, rows)
    with open_lite(made, **options) as lite:
        quantised = _run(lite, rows)
    error = np.abs(plain.logits - quantised.logits)
    return Report(
        file=entry.name,
        quantization=entry.quantization or "none",
        bytes=sum(file.stat().st_size for file in (made, made.with_suffix(".msw")) if file.is_file()),
        float32_bytes=_size(source),
        seconds=round(took, 2),
        tokens=len(error),
        same_top=int((plain.logits.argmax(-1) == quantised.logits.argmax(-1)).sum()),
        largest_error=float(error.max()),
        mean_error=float(error.mean()),
        spread=float(plain.logits.std()),
        step_ms=round(quantised.step_ms, 3),
        float32_step_ms=round(plain.step_ms, 3),
    )


def _prompt_ids(tokenizer: GLMTokenizer | None, text: str, vocab_size: int) -> list[int]:
    """Ids of a prompt; without a tokenizer ids that depend on the text in some fixed way."""
    if tokenizer is not None:
        return list(tokenizer.encode(text))
    return [ord(character) % vocab_size for character in text]


def _continuation(lite: LiteChat, prompt: list[int]) -> list[int]:
    room = min(_TOKENS, lite.config.seq_length - len(prompt))
    ticket = lite.engine.submit(prompt, GenerationConfig(max_new_tokens=room))
    return ticket.results()[0].ids


def _run(lite: LiteChat, rows: list[list[int]]) -> _Run:
    """Logits at every place of the rows, and the median time of a step of one token."""
    network, found, times = lite.engine.network, [], []
    for row in rows:
        cache = network.new_cache(1)
        tokens = np.asarray([row], np.int32)
        found.append(network.forward(tokens, np.asarray([len(row)]), cache, np.arange(len(row))))
        cache = network.new_cache(1)
        for token in row:
            begin = time.perf_counter()
            network.forward(np.asarray([[token]], np.int32), np.ones(1, int), cache, np.zeros(1, int))
            times.append(time.perf_counter() - begin)
    return _Run(np.concatenate(found), 1e3 * float(np.median(times)))


def _size(source: Path) -> int:
    """Bytes of a graph with its weights."""
    manifest, _, graph = find_manifest(source)
    return (graph.bytes if graph else 0) + (manifest.weights.bytes if manifest.weights else 0)
