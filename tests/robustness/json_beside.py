"""JSON beside weights: config.json, manifest, index, adapter_config, strategy; any value, and no JSON at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from inputs import DEEP, STAND_INS, Input, generator, spoilt_bytes, spoilt_values

FAMILY = "JSON beside weights"
# what is copied, the file that is spoilt, the words, which of its damages are no damage, how many of each kind
_INSPECT = ("inspect", "model")
_KINDS = (
    ("model", "config.json", ("inspect", "model"), 70, 24),
    ("model", "config.json", ("convert", "--input_path", "model", "--output_path", "out"), 70, 12),
    (
        "model",
        "config.json",
        ("quantize", "--checkpoint", "model", "--output_path", "out", "--group_size", "16"),
        25,
        6,
    ),
    (
        "adapter",
        "adapter_config.json",
        ("merge-lora", "--base", "base", "--adapter", "adapter", "--output_path", "out", "--verify", "layers"),
        60,
        18,
    ),
    ("adapter", "adapter_config.json", ("inspect", "adapter"), 20, 6),
    ("ours", "manifest.json", ("verify", "ours"), 50, 18),
    ("ours", "manifest.json", ("inspect", "ours"), 15, 6),
    ("ours", "manifest.json", ("convert", "--input_path", "base", "--output_path", "ours", "--overwrite"), 25, 6),
    ("sharded", "model.safetensors.index.json", ("inspect", "sharded"), 40, 18),
    ("sharded", "model.safetensors.index.json", ("convert", "--input_path", "sharded", "--output_path", "out"), 25, 6),
    (
        "strategy.json",
        "",
        ("transform", "--src_ckpt_dir", "ranks", "--src_ckpt_strategy", "strategy.json", "--dst_ckpt_dir", "out"),
        40,
        18,
    ),
    (
        "strategy.json",
        "",
        ("transform", "--src_ckpt_dir", "ranks", "--dst_ckpt_strategy", "strategy.json", "--dst_ckpt_dir", "out"),
        30,
        6,
    ),
)
_HUGE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "padded_vocab_size",
    "num_attention_heads",
    "kv_channels",
    "seq_length",
)


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    for number, (folder, file, words, values, damages) in enumerate(_KINDS):
        path = bench / folder / file if file else bench / folder
        chance = generator(f"json {number}")
        beside = {name: bench / source for name, source in (("base", "model"), ("ranks", "ranks")) if name in words}
        beside[folder] = bench / folder
        place = f"{folder}/{file}" if file else folder
        replaced = ("ours/",) if "--overwrite" in words else ()
        tree = json.loads(path.read_text(encoding="utf-8"))

        def spoilt(
            title: str,
            content,
            expected="either",
            key="",
            *,
            _words=words,
            _beside=beside,
            _place=place,
            _replaced=replaced,
        ) -> Input:
            named = (
                (Path(_place).name, Path(_place).parent.name or _place, key)
                if key
                else (Path(_place).name, Path(_place).parent.name or _place)
            )
            files = {**_beside, _place: _instead(content)}
            return Input(
                FAMILY,
                f"{_words[0]} {_place} {title}",
                _words,
                files=files,
                expected=expected,
                names=(*filter(None, named), "ranks", "manifest", "lora_alpha"),
                replaced=_replaced,
            )

        for index, (key, value) in enumerate(spoilt_values(tree, chance, values)):
            yield spoilt(f"{index} {key[:30]}", json.dumps(value), key=key.rpartition(".")[2])
        for title, content in list(DEEP.items())[:damages]:
            yield spoilt(title, content)
        for title, content in spoilt_bytes(path.read_bytes(), chance, damages // 2):
            yield spoilt(title, content)
        for title in list(STAND_INS)[: damages // 2]:
            yield spoilt(title, STAND_INS[title])
    yield from _enormous(bench)
    yield from _outside(bench)


def _instead(content):
    """The content, also over a copied file: a stand-in that is made needs the place free."""
    if not callable(content):
        return content

    def made(path: Path) -> None:
        path.unlink(missing_ok=True)
        content(path)

    return made


def _enormous(bench: Path) -> Iterator[Input]:
    given = json.loads((bench / "model/config.json").read_text(encoding="utf-8"))
    for key in _HUGE:
        if key not in given:
            continue
        for value in (10**9, 2**40, -5, 0):
            files = {"model": bench / "model", "model/config.json": json.dumps({**given, key: value})}
            for words in (_INSPECT, ("convert", "--input_path", "model", "--output_path", "out")):
                expected = "either" if key == "seq_length" and value > 0 or words == _INSPECT else "refused"
                yield Input(
                    FAMILY,
                    f"{words[0]} {key} {value}",
                    words,
                    files=files,
                    expected=expected,
                    names=("config.json", "model", key),
                )


def _outside(bench: Path) -> Iterator[Input]:
    """Names that lead out of the folder: nothing there is read, and nothing is gone afterwards."""
    for name in (
        "../kept.txt",
        "/etc/hostname",
        "..",
        "a/../../kept.txt",
        "a\\b",
        "",
        "x" * 300,
        ".",
        "\0",
        "../ours/config.yaml",
    ):
        manifest = json.loads((bench / "ours/manifest.json").read_text(encoding="utf-8"))
        manifest["files"][name] = {"bytes": 7, "sha256": "0" * 64}
        files = {
            "ours": bench / "ours",
            "ours/manifest.json": json.dumps(manifest),
            "kept.txt": "thesis\n",
            "base": bench / "model",
        }
        for words in (("verify", "ours"), ("convert", "--input_path", "base", "--output_path", "ours", "--overwrite")):
            yield Input(FAMILY, f"{words[0]} manifest {name[:20]!r}", words, files=files, names=("manifest.json",))
        index = json.loads((bench / "sharded/model.safetensors.index.json").read_text(encoding="utf-8"))
        index["weight_map"][next(iter(index["weight_map"]))] = name
        files = {
            "sharded": bench / "sharded",
            "sharded/model.safetensors.index.json": json.dumps(index),
            "kept.txt": "thesis\n",
        }
        for words in (("inspect", "sharded"), ("convert", "--input_path", "sharded", "--output_path", "out")):
            yield Input(FAMILY, f"{words[0]} index {name[:20]!r}", words, files=files, names=("index.json", "sharded"))
