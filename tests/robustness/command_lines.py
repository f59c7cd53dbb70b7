"""Command lines: every option of every command with words it cannot mean, odd paths, typing errors."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from inputs import BAD_PATHS, STAND_INS, Input

from mindformers_glm.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
FAMILY = "command lines"
WHOLE = ("-1", "1.5", "abc", "", "nan", "1e3", "9" * 30, "٣", "0x10", "1 2")
NUMBERS = ("-1", "nan", "inf", "abc", "", "1,5", "9" * 400)
PLAIN = {int: ("abc", "", "1.5", "9" * 5000), float: ("abc", "", "1,5", "--")}
CHOICES = ("nonsense", "", "x" * 500, "词")
OUTPUTS = ("/dev/null/x", "kept.txt/below", "x" * 300, "kept.txt", "/proc/x/y")


class Line(NamedTuple):
    """A line that is good as it stands: its words, the files it reads, and its options for paths read and written."""

    words: tuple[str, ...]
    files: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    stdin: str = ""


LINES = {
    "run": Line(
        ("--config", "run.yaml"),
        ("run.yaml", "adgen.jsonl"),
        ("--config", "--load_checkpoint", "--train_dataset_dir"),
        ("--output_dir",),
    ),
    "evaluate": Line(
        ("--config", "run.yaml"),
        ("run.yaml", "adgen.jsonl"),
        ("--config", "--load_checkpoint", "--eval_dataset_dir"),
        ("--output_dir",),
    ),
    "predict": Line(
        ("--config", "run.yaml", "--predict_data", "你好"),
        ("run.yaml", "adgen.jsonl"),
        ("--config", "--load_checkpoint"),
        ("--output_dir",),
    ),
    "chat": Line((), (), ("--model", "--adapter", "--tokenizer", "--tools", "--lite"), (), "stop\n"),
    "convert": Line(
        ("--input_path", "model", "--output_path", "out"),
        ("model",),
        ("--input_path", "--config", "--tokenizer"),
        ("--output_path",),
    ),
    "merge-lora": Line(
        ("--base", "model", "--adapter", "adapter", "--output_path", "out", "--verify", "layers"),
        ("model", "adapter"),
        ("--base", "--adapter", "--config"),
        ("--output_path",),
    ),
    "transform": Line(
        ("--src_ckpt_dir", "ranks", "--dst_ckpt_dir", "out"),
        ("ranks", "strategy.json"),
        ("--src_ckpt_dir", "--src_ckpt_strategy", "--dst_ckpt_strategy"),
        ("--dst_ckpt_dir",),
    ),
    "quantize": Line(
        ("--checkpoint", "model", "--output_path", "out", "--group_size", "16"),
        ("model",),
        ("--checkpoint",),
        ("--output_path",),
    ),
    "export": Line(
        ("--config_path", "run.yaml", "--load_checkpoint", "base.ckpt"),
        ("run.yaml", "adgen.jsonl", "base.ckpt"),
        ("--config_path", "--model_dir", "--load_checkpoint"),
        ("--output_dir",),
    ),
    "convert-lite": Line(("model",), ("model",), ("--lite_python",)),
    "infer-lite": Line(
        ("--model_dir", "model"),
        ("model",),
        ("--model_dir", "--prefill_model_path", "--tokenizer_path", "--config_path"),
    ),
    "preprocess": Line(
        ("--input", "texts.jsonl", "--tokenizer-name-or-path", "tokenizer", "--output-prefix", "out"),
        ("texts.jsonl", "tokenizer"),
        ("--input", "--tokenizer-name-or-path", "--verify", "--merge"),
        ("--output-prefix",),
    ),
    "inspect-data": Line(("adgen.jsonl",), ("adgen.jsonl",), ("--tokenizer",), ("--png",)),
    "preview-data": Line(
        ("--data", "adgen.jsonl", "--tokenizer", "tokenizer", "--max_source_length", "31", "--max_target_length", "32"),
        ("adgen.jsonl", "tokenizer"),
        ("--data", "--tokenizer", "--config"),
    ),
    "inspect": Line(("model",), ("model",), ("--config",)),
    "verify": Line(("ours",), ("ours",)),
    "plan": Line((), (), ("--config",)),
    "benchmark": Line(("decode", "--steps", "1"), (), (), ("--json",)),
}
_POSITIONAL = {"inspect-data": "adgen.jsonl", "inspect": "model", "verify": "ours", "convert-lite": "model"}
_NEED_MORE = {"convert-lite", "infer-lite", "benchmark", "export"}  # an export, Lite, a minute of measuring
_EMPTY_IS_NONE = {"--src_ckpt_strategy", "--dst_ckpt_strategy", "--load_checkpoint"}
_SCRIPTS = {
    "tools/hccl_tools.py": [
        ("--device_num", word) for word in ("[0,9)", "[4,2)", "0-8", "", "[0,99999999999999999999)", "[-1,4)", "[3,6)")
    ]
    + [("--visible_devices", word) for word in ("a,b", "0,0", "", ",", "-1")]
    + [("--server_ip", word) for word in ("999.1.1.1", "x", "127.0.0.1")]
    + [("--device_num_per_node", word) for word in ("-1", "abc", "0")]
    + [("--hccn_conf", word) for word in BAD_PATHS if "\0" not in word],
    "tools/check_hccl.py": [(word,) for word in BAD_PATHS] + [(name,) for name in STAND_INS] + [()],
    "tools/merge_hccl.py": [(word,) for word in BAD_PATHS] + [(name,) for name in STAND_INS] + [()],
    "tools/glm2_tiny/make_corpus.py": [
        *(("corpus", "out.json", "--lines", word) for word in WHOLE + ("0", "99999999")),
        *(("adgen", "out.json", "--lines", "2", "--seed", word) for word in WHOLE),
        *(("corpus", word, "--lines", "2") for word in (*OUTPUTS[:3], "folder", "/proc/x/y")),
        ("poems", "out.json", "--lines", "2"),
        ("corpus",),
        (),
    ],
    "tools/convert_weight.py": [("--input_path", "nowhere", "--output_path", "out"), ("--nonsense",), ()],
    "run_mindformer.py": [("--config", word) for word in BAD_PATHS]
    + [(), ("--config",), ("yaml",), ("-c", "run.yaml")],
}


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    for name, line in LINES.items():
        files = {file: bench / file for file in line.files}
        if name not in _NEED_MORE:
            yield Input(
                FAMILY, f"{name} as it is", _line(name, line), files=files, expected="accepted", stdin=line.stdin
            )
        yield from _options(name, line, files)
        yield from _paths(name, line, files)
        yield from _typing(name, line, files)
    yield from _console()
    yield from _scripts()


def _line(name: str, line: Line, *more: str) -> tuple[str, ...]:
    return (name, *line.words, *more)


def _options(name: str, line: Line, files: dict) -> Iterator[Input]:
    for action in (COMMANDS[name].parser() or argparse.ArgumentParser())._actions:
        if not action.option_strings or isinstance(action, argparse._HelpAction):
            continue
        flag = action.option_strings[0]
        if action.nargs == 0:
            yield _refused(f"{name} {flag}=value", _line(name, line, f"{flag}=value"), files, flag)
            continue
        for word in _bad_words(action):
            words = _line(name, line, f"{flag}={word}")
            given = _refused(f"{name} {flag} {word[:20]!r}", words, files, flag)
            yield _as(given, expected="either") if (name, word) == ("evaluate", "1e3") else given  # as in a YAML
        if action.nargs in (None, "+"):
            yield _refused(f"{name} {flag} without a value", _line(name, line, flag), files, flag)


def _bad_words(action: argparse.Action) -> tuple[str, ...]:
    reader = getattr(action.type, "__qualname__", "")
    if action.choices:
        return CHOICES
    if reader.startswith("whole."):
        return WHOLE
    if reader.startswith("number."):
        return NUMBERS
    if action.type in PLAIN:
        return PLAIN[action.type]
    return ("maybe", "") if action.type is not None else ()


def _paths(name: str, line: Line, files: dict) -> Iterator[Input]:
    for flag in (*line.read, *([""] if name in _POSITIONAL else [])):
        for word in (*BAD_PATHS, *STAND_INS):
            stands = {word: STAND_INS[word]} if word in STAND_INS else {}
            words = _with(name, line, flag, word)
            given = Input(
                FAMILY, f"{name} {flag or 'path'} {word[:20]!r}", words, files={**files, **stands}, stdin=line.stdin
            )
            yield _as(
                given,
                names=(
                    word,
                    flag.lstrip("-") or word,
                    "config",
                    "checkpoint",
                    "name_or_path",
                    "--max_source_length",
                    *line.files,
                ),
                expected="either",
            )
        if flag and flag not in _EMPTY_IS_NONE:
            yield Input(
                FAMILY,
                f"{name} {flag} empty",
                _with(name, line, flag, ""),
                files=files,
                expected="either",
                stdin=line.stdin,
            )
    for flag in line.written:
        for word in OUTPUTS:
            kept = {**files, "kept.txt": "thesis\n"}
            yield Input(
                FAMILY,
                f"{name} {flag} {word[:20]!r}",
                _with(name, line, flag, word),
                files=kept,
                expected="either",
                names=(word, flag, word.rpartition("/")[0] or word),
                replaced=("kept.txt",) if name == "benchmark" else (),  # figures of an earlier run
            )


def _with(name: str, line: Line, flag: str, word: str) -> tuple[str, ...]:
    """The line with this value for a flag, or in the place of its path."""
    words = list(line.words)
    if not flag:
        words[words.index(_POSITIONAL[name])] = word
    elif flag in words:
        words[words.index(flag) + 1] = word
    else:
        words += [flag, word]
    return (name, *words)


def _typing(name: str, line: Line, files: dict) -> Iterator[Input]:
    parser = COMMANDS[name].parser() or argparse.ArgumentParser()
    flags = [action.option_strings[0] for action in parser._actions if action.option_strings]
    for flag in flags[1:7]:
        yield _refused(f"{name} {flag}x", _line(name, line, f"{flag}x", "1"), files, flag)
    for words in (("--nonsense",), ("--nonsense", "1"), ("--", "--nonsense"), ("--options",)):
        given = _refused(f"{name} {' '.join(words)}", _line(name, line, *words), files, words[-1])
        yield _as(given, names=("nonsense", "options", "command line", "--:"))
    if name not in ("chat", "plan", "benchmark"):
        yield Input(FAMILY, f"{name} alone", (name,), names=("required", "--", "None"))


def _console() -> Iterator[Input]:
    for word in ("conver", "train", "", "--nonsense", "词", "x" * 5000, "\u2028", "-", "run.yaml", "Convert"):
        yield Input(FAMILY, f"console {word[:20]!r}", (word,), names=("mindformers-glm",))
    for words in (("--help",), ("--version",), *((name, "--help") for name in COMMANDS)):
        yield Input(FAMILY, f"console {' '.join(words)}", words, expected="accepted")
    for words in (
        ("chart",),
        ("chart", "nowhere.json"),
        ("train", "--batch", "0"),
        ("train", "--shape", "1,2"),
        ("prefill", "--shape", "a,b,c"),
        ("decode", "--dtype", "int3"),
        ("decode", "--threads", "-1"),
        ("decode", "--threads", "99999"),
        ("ops", "--only", "nothing"),
        ("train", "--against", "nobody"),
        ("sing",),
        ("decode", "--context", "1e9"),
        ("decode", "--json", "nowhere/x.json"),
        ("train", "--steps", "0"),
    ):
        yield Input(FAMILY, f"benchmark {' '.join(words)}", ("benchmark", *words))


def _scripts() -> Iterator[Input]:
    for script, lines in _SCRIPTS.items():
        for number, words in enumerate(lines):
            used = {name: STAND_INS[name] for name in STAND_INS if name in words}
            given = Input(
                FAMILY,
                f"{script} {number} {' '.join(words)[:40]!r}",
                (str(ROOT / script), *words),
                files={"kept.txt": "thesis\n", **used},
            )
            yield _as(given, expected="either") if words and words[0] in ("--server_ip",) else given


def _refused(title: str, words: tuple[str, ...], files: dict, *names: str) -> Input:
    near = tuple(name.lstrip("-").replace("-", "_") for name in names)
    return Input(FAMILY, title, words, files=files, names=(*names, *near, *(files if "--" in words[-1] else ())))


def _as(given: Input, **changes) -> Input:
    from dataclasses import replace  # noqa: PLC0415

    return replace(given, **changes)
