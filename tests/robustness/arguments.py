"""Python: arguments of AutoModel, AutoTokenizer, generate, chat, Trainer, pipeline and of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from inputs import Input, drawn
from values import CONFIG, GENERATION, IDS, LOADING, ODD, TEXTS, TRAINER, TRAINING

FAMILY = "API arguments"
_HEAD = "import numpy as np\nfrom mindformers_glm import *\nimport mindformers_glm\n"
_MODEL = "model = AutoModel.from_pretrained('glm2_tiny')\n"
_TOKENIZER = "tokenizer = AutoTokenizer.from_pretrained('glm2_tiny')\n"
_AFTER = """from mindformers_glm.errors import UserError
try:
    {}
except UserError:
    pass
assert len(model.generate([5, 6], max_new_tokens=2)) == 1
"""
_TRAINER_CALL = """trainer = Trainer(given, model='glm2_tiny', train_dataset='x.json', device_target='CPU')
print(trainer.config('train').run_mode)
"""


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    del bench
    yield from drawn(_generate(), 130, "generate")
    yield from drawn(_loading(), 90, "loading")
    yield from drawn(_chat(), 80, "chat")
    yield from drawn(_training(), 120, "training")
    yield from drawn(_configurations(), 70, "configurations")
    yield from drawn(_tokenizers(), 70, "tokenizer calls")


def _code(title: str, body: str, *names: str, expected: str = "either") -> Input:
    return Input(FAMILY, title, code=_HEAD + body, expected=expected, names=names)


def _generate() -> Iterator[Input]:
    for name in GENERATION:
        for value in ODD:
            more = "" if name in ("max_length", "max_new_tokens") else ", max_new_tokens=2"
            sampled = ", do_sample=True" if name in ("temperature", "top_p", "top_k", "seed") else ""
            expected = "refused" if name == "nonsense" else "either"
            yield _code(
                f"generate {name}={value}",
                f"{_MODEL}print(model.generate([5, 6, 7], {name}={value}{more}{sampled}))",
                name,
                expected=expected,
            )
    for value in IDS:
        yield _code(
            f"generate {value}",
            f"{_MODEL}print(model.generate({value}, max_new_tokens=2))",
            "input_ids",
            "prompt",
            "row",
        )
        after = _MODEL + _AFTER.format(f"model.generate({value}, max_new_tokens=2)")
        yield _code(f"generate after {value}", after, expected="accepted")


def _loading() -> Iterator[Input]:
    for name in LOADING:
        for value in ODD:
            call = (
                f"AutoModel.from_pretrained({value})"
                if name == "name_or_path"
                else f"AutoModel.from_pretrained('glm2_tiny', {name}={value})"
            )
            yield _code(
                f"model {name}={value}",
                f"print(type({call}))",
                name,
                "checkpoint",
                "''",
                "'.'",
                value.strip("'"),
                "dtype",
                "path",
            )
    for kind in ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoModel"):
        for value in ODD:
            yield _code(
                f"{kind} {value}",
                f"print({kind}.from_pretrained({value}))",
                "name",
                "path",
                "checkpoint",
                value.strip("'"),
                "x",
                "nul",
            )
    for value in ODD:
        yield _code(
            f"from_config {value}",
            f"print(type(AutoModel.from_config({value})))",
            "config",
            "name",
            "path",
            "checkpoint",
        )


def _chat() -> Iterator[Input]:
    for name in (
        "history",
        "system",
        "tools",
        "role",
        "query",
        "messages",
        "nonsense",
        "num_beams",
        "temperature",
        "max_new_tokens",
    ):
        for value in ODD:
            first = "" if name in ("query", "messages") else "'你好', "
            more = "" if name == "max_new_tokens" else ", max_new_tokens=2"
            yield _code(
                f"chat {name}={value}",
                f"{_MODEL}{_TOKENIZER}print(model.chat(tokenizer, {first}{name}={value}{more}))",
                name,
                "query",
                "role",
                "message",
                "content",
                "prompt",
                "tools",
            )
    for value in TEXTS:
        yield _code(
            f"pipeline call {value[:20]}",
            f"print(pipeline('text_generation', 'glm2_tiny')({value}, max_new_tokens=2))",
            "inputs",
            "prompt",
            "predict",
            "input",
        )
    for name in ("task", "model", "tokenizer", "backend", "batch_size", "image_processor", "nonsense", "top_k"):
        for value in ODD:
            given = {"task": "'text_generation'", "model": "'glm2_tiny'", name: value}
            words = ", ".join(f"{key}={item}" for key, item in given.items())
            yield _code(
                f"pipeline {name}={value}",
                f"print(pipeline({words})('你好', max_new_tokens=2))",
                name,
                "checkpoint",
                "path",
                "tokenizer",
                "model",
            )


def _training() -> Iterator[Input]:
    for name in TRAINING:
        for value in ODD:
            body = f"given = TrainingArguments({name}={value})\n{_TRAINER_CALL}"
            yield _code(
                f"TrainingArguments {name}={value}",
                body,
                name,
                "batch_size",
                "epochs",
                "beta1",
                "eps",
                "optimizer",
                "lr_schedule",
                "callbacks",
                "load_checkpoint",
            )
    for name in TRAINER:
        for value in ODD:
            given = {"model": "'glm2_tiny'", "train_dataset": "'x.json'", "device_target": "'CPU'", name: value}
            words = ", ".join(f"{key}={item}" for key, item in given.items())
            yield _code(
                f"Trainer {name}={value}",
                f"print(Trainer({words}).config('train').run_mode)",
                name,
                "metric",
                "model",
                "runner_wrapper",
                "configuration",
                "path",
                "run_mode",
                "Trainer",
                "YAML",
            )


def _configurations() -> Iterator[Input]:
    for name in CONFIG:
        for value in ODD:
            expected = (
                "refused"
                if name == "nonsense" or value in ("float('nan')", "float('inf')", "object()") and name != "pet_config"
                else "either"
            )
            yield _code(
                f"ChatGLM2Config {name}={value}",
                f"print(ChatGLM2Config({name}={value}).num_layers)",
                name,
                expected=expected,
            )


def _tokenizers() -> Iterator[Input]:
    calls = (
        "tokenizer({})",
        "tokenizer.encode({})",
        "tokenizer.tokenize({})",
        "tokenizer.batch_decode({})",
        "tokenizer.convert_tokens_to_ids({})",
        "tokenizer.build_prompt({})",
    )
    for call in calls:
        for value in TEXTS:
            yield _code(f"{call.format(value[:20])}", f"{_TOKENIZER}print({call.format(value)})", *_NAMES)
    for value in IDS:
        yield _code(f"decode {value}", f"{_TOKENIZER}print(tokenizer.decode({value}))", *_NAMES)
    for name in (
        "max_length",
        "padding",
        "truncation",
        "return_tensors",
        "add_special_tokens",
        "padding_side",
        "nonsense",
    ):
        for value in ODD:
            yield _code(
                f"tokenizer {name}={value}", f"{_TOKENIZER}print(tokenizer('你好', {name}={value}))", name, *_NAMES
            )


_NAMES = ("text", "ids", "token", "expected", "history", "query")
