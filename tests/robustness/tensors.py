"""Files of tensors, cut, flipped or lying: safetensors, .bin of both ages, .ckpt, .npz, .npy, Megatron."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from inputs import STAND_INS, Input, generator, spoilt_bytes

FAMILY = "tensors"
_KINDS = (
    ("model", "model.safetensors", "model", 66),
    ("bin", "pytorch_model.bin", "bin", 66),
    ("legacy.bin", "", "legacy.bin", 40),
    ("base.ckpt", "", "base.ckpt", 66),
    ("adapter", "adapter_model.safetensors", "adapter", 20),
    ("megatron", "iter_0000001/mp_rank_00/model_optim_rng.pt", "megatron", 30),
)


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    for folder, file, given, count in _KINDS:
        path = bench / folder / file if file else bench / folder
        if file and not path.is_file():
            path = next(sorted((bench / folder).rglob("*" + Path(file).suffix)).__iter__())
        place = str(path.relative_to(bench))
        config = (
            {} if (bench / folder).is_dir() and folder != "megatron" else {"config.json": bench / "model/config.json"}
        )
        more = ("--config", "config.json") if config else ()
        good = {folder: bench / folder, **config}
        for words in (("inspect", given, "--values"), ("convert", "--input_path", given, "--output_path", "out")):
            words = (*words, *more, *(("--to", "peft") if folder == "adapter" and words[0] == "convert" else ()))
            yield Input(FAMILY, f"{words[0]} {given} as it is", words, files=good, expected="accepted")
        content, chance = path.read_bytes(), generator(f"tensors {folder}")
        for number, (title, damaged) in enumerate(spoilt_bytes(content, chance, count)):
            files = {folder: bench / folder, place: damaged, **config}
            words = (
                ("inspect", given, "--values", *more),
                ("convert", "--input_path", given, "--output_path", "out", *more),
            )[number % 2]
            yield Input(
                FAMILY,
                f"{words[0]} {place} {title}",
                words,
                files=files,
                expected="either",
                names=(given, Path(place).name, "config.json"),
            )
        for title, what in STAND_INS.items():
            files = {folder: bench / folder, place: _instead(what), **config}
            words = ("convert", "--input_path", given, "--output_path", "out", *more)
            yield Input(FAMILY, f"{place} {title}", words, files=files, names=(given, Path(place).name))
    yield from _headers(bench)
    yield from _arrays()
    yield from _transform(bench)


def _instead(content):
    if not callable(content):
        return content

    def made(path: Path) -> None:
        path.unlink(missing_ok=True)
        content(path)

    return made


def _headers(bench: Path) -> Iterator[Input]:
    """safetensors whose header lies."""
    content = (
        (bench / "model/model.safetensors").read_bytes() if (bench / "model/model.safetensors").is_file() else None
    )
    if content is None:
        content = next((bench / "model").glob("*.safetensors")).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = next(key for key in header if key != "__metadata__")
    changes = {
        "dtype list": {"dtype": ["F32"]},
        "dtype unknown": {"dtype": "F7"},
        "dtype null": {"dtype": None},
        "shape text": {"shape": "3"},
        "shape negative": {"shape": [-1, 32]},
        "shape huge": {"shape": [2**40, 2**40]},
        "shape floats": {"shape": [1.5]},
        "shape bool": {"shape": [True]},
        "shape nested": {"shape": [[1]]},
        "offsets back": {"data_offsets": [100, 0]},
        "offsets huge": {"data_offsets": [0, 2**60]},
        "offsets negative": {"data_offsets": [-4, 0]},
        "offsets text": {"data_offsets": ["0", "4"]},
        "offsets three": {"data_offsets": [0, 1, 2]},
        "offsets null": {"data_offsets": None},
        "offsets overlap": {"data_offsets": [4, 132]},
    }
    heads = {title: json.dumps({**header, name: {**header[name], **change}}) for title, change in changes.items()}
    heads |= {
        "entry list": json.dumps({**header, name: []}),
        "entry null": json.dumps({**header, name: None}),
        "list": "[]",
        "empty object": "{}",
        "metadata numbers": json.dumps({**header, "__metadata__": {"a": 1}}),
        "metadata list": json.dumps({**header, "__metadata__": []}),
        "deep": '{"a":' * 50_000,
        "name empty": json.dumps({**header, "": header[name]}),
        "name long": json.dumps({**header, "x" * 10_000: header[name]}),
        "name path": json.dumps({**header, "../../x": header[name]}),
    }
    for title, head in heads.items():
        damaged = struct.pack("<Q", len(head)) + head.encode() + data
        yield _model(bench, f"header {title}", damaged)
    for length in (0, 1, 2**63, 2**64 - 1, 10**8 + 1, len(content)):
        yield _model(bench, f"header length {length}", struct.pack("<Q", length) + content[8:])


def _model(bench: Path, title: str, content: bytes) -> Input:
    files = {"model/config.json": bench / "model/config.json", "model/model.safetensors": content}
    expected = "either" if "metadata" in title or "name" in title else "refused"
    return Input(
        FAMILY,
        title,
        ("convert", "--input_path", "model", "--output_path", "out"),
        files=files,
        names=("model",),
        expected=expected,
    )


def _arrays() -> Iterator[Input]:
    """NumPy's own files are no weights; objects in them are never unpickled."""
    chance = generator("arrays")
    plain, objects, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plain, np.zeros((2, 2), np.float32))
    np.save(objects, np.array([{"a": 1}, print], dtype=object), allow_pickle=True)
    np.savez(archive, a=np.zeros((2, 2), np.float32), b=np.array([{}], dtype=object))
    lying = (
        b"\x93NUMPY\x01\0"
        + struct.pack("<H", 70)
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9), }".ljust(69)
        + b"\n"
    )
    made = {
        "a.npy": plain.getvalue(),
        "objects.npy": objects.getvalue(),
        "a.npz": archive.getvalue(),
        "lying.npy": lying,
    }
    for name, content in made.items():
        for words in (
            ("inspect", name),
            ("convert", "--input_path", name, "--output_path", "out"),
            ("verify", name),
            ("inspect-data", name),
            ("quantize", "--checkpoint", name, "--output_path", "out"),
        ):
            yield Input(FAMILY, f"{words[0]} {name}", words, files={name: content}, names=(name,))
        for title, damaged in spoilt_bytes(content, chance, 4):
            yield Input(FAMILY, f"inspect {name} {title}", ("inspect", name), files={name: damaged}, names=(name,))


def _transform(bench: Path) -> Iterator[Input]:
    content, chance = (bench / "ranks/rank_0/checkpoint_0.ckpt").read_bytes(), generator("transform")
    words = ("transform", "--src_ckpt_dir", "ranks", "--dst_ckpt_dir", "out")
    for title, damaged in spoilt_bytes(content, chance, 20):
        files = {"ranks": bench / "ranks", "ranks/rank_0/checkpoint_0.ckpt": damaged}
        yield Input(
            FAMILY, f"transform {title}", words, files=files, expected="either", names=("checkpoint_0.ckpt", "ranks")
        )
    content = (bench / "strategy.ckpt").read_bytes()
    for title, damaged in spoilt_bytes(content, chance, 30):
        files = {"ranks": bench / "ranks", "strategy.ckpt": damaged}
        more = ("--dst_ckpt_strategy", "strategy.ckpt")
        yield Input(
            FAMILY,
            f"strategy.ckpt {title}",
            (*words, *more),
            files=files,
            expected="either",
            names=("strategy.ckpt", "ranks", "rank_0", "checkpoint"),
        )
