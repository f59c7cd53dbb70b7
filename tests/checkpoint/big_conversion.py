"""Converts a checkpoint of true ChatGLM2-6B width and reports memory and speed against copying.

`python big_conversion.py FOLDER [--layers 28] [--rounds 2] [--keep]` makes an official folder of seven .bin shards (28
layers: 12.5 GB), then copies it with cp and converts it, in turn, each followed by sync. Prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pickled

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 7


def tensors(layers: int) -> list[tuple[str, tuple[int, ...]]]:
    """Official names and shapes, in the order of the official shards."""
    rows = [
        ("transformer.embedding.word_embeddings.weight", (65024, 4096)),
        ("transformer.rotary_pos_emb.inv_freq", (32,)),
    ]
    for layer in range(layers):
        stem = f"transformer.encoder.layers.{layer}."
        rows += [
            (stem + "input_layernorm.weight", (4096,)),
            (stem + "self_attention.query_key_value.weight", (4608, 4096)),
            (stem + "self_attention.query_key_value.bias", (4608,)),
            (stem + "self_attention.dense.weight", (4096, 4096)),
            (stem + "post_attention_layernorm.weight", (4096,)),
            (stem + "mlp.dense_h_to_4h.weight", (27392, 4096)),
            (stem + "mlp.dense_4h_to_h.weight", (4096, 13696)),
        ]
    return [
        *rows,
        ("transformer.encoder.final_layernorm.weight", (4096,)),
        ("transformer.output_layer.weight", (65024, 4096)),
    ]


def make(folder: Path, layers: int) -> int:
    """Writes the folder and returns its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tensors(layers)
    total = sum(2 * math.prod(shape) for _, shape in rows)
    noise = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float16).tobytes()
    table: dict[str, str] = {}
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in range(SHARDS)]
    done = 0
    for row in rows:
        shards[min(SHARDS - 1, done * SHARDS // total)].append(row)
        done += 2 * math.prod(row[1])
    for number, shard in enumerate(shards, 1):
        name = f"pytorch_model-{number:05d}-of-{SHARDS:05d}.bin"
        table.update(dict.fromkeys((tensor for tensor, _ in shard), name))
        _write_shard(folder / name, shard, noise)
    index = {"metadata": {"total_size": total}, "weight_map": table}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "chatglm", "num_layers": layers, "padded_vocab_size": 65024, "hidden_size": 4096,
        "ffn_hidden_size": 13696, "kv_channels": 128, "num_attention_heads": 32, "multi_query_attention": True,
        "multi_query_group_num": 2, "seq_length": 32768, "torch_dtype": "float16", "add_qkv_bias": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return total


def _write_shard(path: Path, shard: list[tuple[str, tuple[int, ...]]], noise: bytes) -> None:
    description = {}
    for key, (name, shape) in enumerate(shard):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        storage = pickled.Stored("HalfStorage", str(key), math.prod(shape))
        description[name] = pickled.Tensor(storage, 0, shape, strides)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled.dumps(description))
        archive.writestr("archive/byteorder", b"little")
        for key, (_, shape) in enumerate(shard):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as member:
                left = 2 * math.prod(shape)
                while left:
                    member.write(noise[: min(left, len(noise))])
                    left -= min(left, len(noise))


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds with a final sync, and the peak memory of the process in bytes."""
    os.sync()
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, errors.decode()[-2000:]
    os.sync()
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


def main(folder: Path, layers: int, rounds: int, keep: bool) -> dict:
    """The figures; everything made on the way is removed unless `keep`."""
    source = folder / "official"
    size = make(source, layers)
    convert = [sys.executable, str(ROOT / "tools/convert_weight.py"), "--input_path", str(source), "--output_path"]
    found: dict[str, list[float]] = {"cp": [], "ours": [], "ckpt": []}
    peak = 0.0
    for _ in range(rounds):
        for kind in found:
            out = folder / ("out.ckpt" if kind == "ckpt" else "out")
            seconds, memory = timed(["cp", "-r", str(source), str(out)] if kind == "cp" else [*convert, str(out)])
            found[kind].append(seconds)
            peak = max(peak, memory if kind != "cp" else 0)
            shutil.rmtree(out, ignore_errors=True)
            for path in (out, out.with_suffix(".yaml")):
                path.unlink(missing_ok=True)
    start = min(timed([sys.executable, str(ROOT / "tools/convert_weight.py"), "--help"])[0] for _ in range(2))
    if not keep:
        shutil.rmtree(folder)
    best = {kind: min(times) for kind, times in found.items()}
    return {
        "bytes": size,
        "seconds": {kind: [round(t, 2) for t in times] for kind, times in found.items()},
        "start_seconds": round(start, 2),
        "peak_bytes": int(peak),
        "speed_of_cp": {kind: round(best["cp"] / best[kind], 2) for kind in ("ours", "ckpt")},
        "speed_of_cp_without_start": {kind: round(best["cp"] / (best[kind] - start), 2) for kind in ("ours", "ckpt")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(main(args.folder, args.layers, args.rounds, args.keep)))
