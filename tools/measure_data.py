#!/usr/bin/env python3
"""Measures the way of text into training: tokenising, memory, packing, and how long a step waits for its data.

    python tools/measure_data.py tokens --vocabulary chatglm3-6b/tokenizer.model --text corpus.jsonl
    python tools/measure_data.py memory --vocabulary chatglm3-6b/tokenizer.model --text corpus.jsonl
    python tools/measure_data.py packing --text alpaca.json more_alpaca.json
    python tools/measure_data.py loader --text corpus.jsonl

`tokens` takes turns: preprocess with two workers, two processes that do nothing but sentencepiece, and again. Figures
are tokens for each second of the clock, and for each second of CPU time of all processes, which a busy machine
changes less. `memory` repeats the rows up to 20 MB and to 2 GB (in a temporary folder, which goes) and compares the
peaks of processes. `packing` and `loader` train glm2_tiny.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mindformers_glm.data.preprocess.source import chunks, files_of, parsed

WORKERS, SMALL = 2, 20 << 20
TINY = Path(__file__).resolve().parents[1] / "mindformers_glm/assets/glm2_tiny"


def rows(names: list[str]) -> list[str]:
    """The texts of files with a column `text`, or lines of a .txt file."""
    return [value["text"] for chunk in chunks(files_of(names), size=1000) for _, value in parsed(chunk)]


def repeated(names: list[str], size: int, folder: Path) -> Path:
    """JSON lines of at least `size` bytes, the rows again and again."""
    path, written = folder / f"{size >> 20}_mb.jsonl", 0
    lines = [json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in rows(names)]
    with path.open("wb") as file:
        for line in itertools.cycle(lines):
            if written >= size:
                return path
            written += file.write(line)
    return path


def cpu_seconds() -> float:
    """CPU time of this process and of those that have ended below it."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def bare(vocabulary: str, texts: list[str]) -> int:
    """Ids of texts by sentencepiece and nothing else."""
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415 - children only

    return sum(map(len, SentencePieceProcessor(model_file=vocabulary).encode(texts)))


def tokens(vocabulary: str, names: list[str]) -> None:
    """Speed of preprocess beside that of sentencepiece, in turn."""
    from mindformers_glm.data.preprocess.handlers import HANDLERS  # noqa: PLC0415
    from mindformers_glm.data.preprocess.run import preprocess  # noqa: PLC0415
    from mindformers_glm.models.recognise import tokenizer_from  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = repeated(names, SMALL, folder)
        texts = rows([str(corpus)])
        halves = [texts[number::WORKERS] for number in range(WORKERS)]
        handler = HANDLERS.get("MegatronHandler")(tokenizer_from(vocabulary))
        for turn in range(3):
            began, used = time.perf_counter(), cpu_seconds()
            count = preprocess(corpus, folder / "out", handler, workers=WORKERS, log_interval=0, overwrite=True).tokens
            _tell("preprocess", count, time.perf_counter() - began, cpu_seconds() - used, turn)
            began, used = time.perf_counter(), cpu_seconds()
            with ProcessPoolExecutor(WORKERS) as pool:
                count = sum(pool.map(bare, [vocabulary] * WORKERS, halves))
            _tell("sentencepiece", count, time.perf_counter() - began, cpu_seconds() - used, turn)


def _tell(name: str, count: int, seconds: float, used: float, turn: int) -> None:
    print(f"{turn} {name:<14} {count} tokens, {count / seconds:9.0f} /s, {count / used:9.0f} per CPU second")


def memory(vocabulary: str, names: list[str], sizes: list[int]) -> None:
    """Peak memory of preprocess on a small and on a large corpus, sizes in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in (number << 20 for number in sizes):
            corpus = repeated(names, size, folder)
            words = ["--input", corpus, "--tokenizer-name-or-path", vocabulary, "--output-prefix", folder / "out"]
            more = ["--workers", str(WORKERS), "--overwrite", "--log-interval", "1000000000", "--format", "megatron"]
            began = time.perf_counter()
            child = [sys.executable, __file__, "peak", "--", *map(str, words), *more]
            done = subprocess.run(child, capture_output=True, text=True, check=True)
            print(
                f"{size >> 20:>5} MB: {done.stdout.splitlines()[-1]}, {time.perf_counter() - began:.0f} s", flush=True
            )
            corpus.unlink()


def peak(words: list[str]) -> None:
    """Runs preprocess and tells the peak memory of this process and of its largest child."""
    from mindformers_glm.cli.preprocess import main  # noqa: PLC0415

    main(words)
    own, child = (resource.getrusage(kind).ru_maxrss for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak {own / 1024:.0f} MB, largest child {child / 1024:.0f} MB")


def train(dataset: object, *, length: int, steps: int) -> tuple[float, float]:
    """Seconds of a step of glm2_tiny, and the share of it that was spent waiting for a batch."""
    from mindformers_glm import runtime  # noqa: PLC0415
    from mindformers_glm.auto import AutoModel  # noqa: PLC0415
    from mindformers_glm.optim import AdamW, decay_groups  # noqa: PLC0415
    from mindformers_glm.train.step import TrainStep  # noqa: PLC0415

    runtime.set_up({"device_target": "CPU"}, seed=1)
    model = AutoModel.from_pretrained("glm2_tiny", seq_length=length)
    step = TrainStep(model, AdamW(decay_groups(model.trainable_params(), 0.01), learning_rate=1e-5), max_grad_norm=1.0)
    batches = itertools.chain.from_iterable(dataset.batches(epoch) for epoch in itertools.count())  # type: ignore[attr-defined]
    for _ in range(2):
        step([next(batches)], 1e-5)
    waited, began = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step([batch], 1e-5)
    whole = time.perf_counter() - began
    return whole / steps, waited / whole


def packing(names: list[str], steps: int) -> None:
    """An epoch of rows of 2,048 tokens, padded and packed."""
    from mindformers_glm.data.build import build_dataset  # noqa: PLC0415

    for batch, strategy in ((4, None), (4, "neat"), (4, "sequential")):
        section = {
            "data_loader": {"type": "AutoDataLoader", "datasets": [{"path": name} for name in names]},
            "tokenizer": {"type": "ChatGLM2Tokenizer", "vocab_file": str(TINY / "tokenizer.model")},
            "max_seq_length": 2048,
            **({"packing": strategy} if strategy else {}),
        }
        made = build_dataset(section, task={"type": "MultiTurnDataset"}, seed=1, batch_size=batch)
        seconds, _ = train(made, length=2048, steps=steps)
        print(
            f"{strategy or 'padding':<10} {made.num_rows:5d} rows, {len(made):4d} steps of {batch} x 2048, "
            f"{seconds:.2f} s a step, {seconds * len(made):.0f} s an epoch",
            flush=True,
        )


def loader(names: list[str], steps: int) -> None:
    """How long a step of 8,192 tokens waits for its row of a corpus of ids."""
    from mindformers_glm.data.build import build_dataset  # noqa: PLC0415
    from mindformers_glm.data.preprocess.handlers import HANDLERS  # noqa: PLC0415
    from mindformers_glm.data.preprocess.run import preprocess  # noqa: PLC0415
    from mindformers_glm.models.recognise import tokenizer_from  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        handler = HANDLERS.get("GeneralPretrainHandler")(tokenizer_from(str(TINY)), append_eod=True)
        preprocess(names, Path(name) / "corpus", handler)
        for marks in ({}, {"reset_attention_mask": True, "reset_position_ids": True}):
            data = {
                "type": "IndexedDataLoader",
                "dataset_dir": f"{name}/corpus_text_document",
                "split": "1,0,0",
                **marks,
            }
            section = {"data_loader": data, "seq_length": 8192}
            made = build_dataset(section, task={"type": "CausalLanguageModelDataset"}, seed=1, batch_size=1)
            seconds, waited = train(made, length=8192, steps=steps)
            print(
                f"{'documents apart' if marks else 'one row':<16} {seconds:.2f} s a step, {100 * waited:.2f} % waiting"
            )


def main() -> None:
    """Picks what is measured."""
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[3:])
        return
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("tokens", "memory", "packing", "loader"))
    p.add_argument("--text", nargs="+", required=True, help="files with texts; of alpaca rows for packing")
    p.add_argument("--vocabulary", default=str(TINY / "tokenizer.model"), help="tokenizer.model")
    p.add_argument("--steps", type=int, default=10, help="of training that are timed")
    p.add_argument("--sizes", nargs="+", type=int, default=[20, 2048], help="MB of text for memory")
    given = p.parse_args()
    os.environ.setdefault("GLOG_v", "3")
    if given.what == "tokens":
        tokens(given.vocabulary, given.text)
    elif given.what == "memory":
        memory(given.vocabulary, given.text, given.sizes)
    else:
        {"packing": packing, "loader": loader}[given.what](given.text, given.steps)


if __name__ == "__main__":
    main()
