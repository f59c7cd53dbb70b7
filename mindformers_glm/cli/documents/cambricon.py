"""Cambricon's ChatGLM2 tutorial: test_benchmark.sh, cli_demo.py and web_demo.py.

    bash scripts/test_benchmark.sh 11 ddp amp DATA_DIR benchmark DEVICE MODEL_DIR lora|finetune
    python tools/cli_demo.py --model_name_or_path MODEL_DIR --use_v2 True
    python tools/web_demo.py --model_name_or_path MODEL_DIR --use_v2 True

The benchmark trains real steps on the data, and prints and keeps the JSON of the tutorial. See docs/migration.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_glm.benchmark.monitor import Monitor
from mindformers_glm.cli import chat
from mindformers_glm.cli.documents.training import carry_out, device_of, laid_over, of_model, precision
from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.cli.ranks import start
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path
from mindformers_glm.serving.phrases import CHINESE

if TYPE_CHECKING:
    from mindformers_glm.serving.loading import Loaded

_MODES = ("ddp", "single")
_PRECISIONS = ("amp", "fp32")
_METHODS = {"lora": "LoRA", "finetune": "Finetune"}
_DEVICES = {"370X8": "MLU370-X8", "370X4": "MLU370-X4", "370M8": "MLU370-M8", "590": "MLU590"}  # what the script prints
_SEQ_LENGTH = 192  # of base/length_192.yaml: 64 tokens of prompt and 127 of answer
_WELCOME = "欢迎使用 ChatGLM-6B 模型，输入内容即可对话，clear清空对话历史，stop终止程序"
PHRASES = dataclasses.replace(CHINESE, question="Input: ", answer="ChatGLM-6B: ", welcome=_WELCOME, cleared=_WELCOME)


def parser() -> argparse.ArgumentParser:
    """The eight words of test_benchmark.sh, and options of ours."""
    p = Parser(description=__doc__)
    p.add_argument("number", help="accepted; no effect (11 in the tutorial)")
    p.add_argument("parallel", choices=_MODES, help="ddp, or single: one process")
    p.add_argument("precision", choices=_PRECISIONS, help="amp: half precision where the device computes in it")
    p.add_argument("data", help="folder of AdvertiseGen, with train.json")
    p.add_argument("purpose", choices=("benchmark",), help="benchmark")
    p.add_argument("device", help="what the JSON calls the device: 370X8 becomes MLU370-X8")
    p.add_argument("model", help="folder of the model, or any name that a model has here")
    p.add_argument("method", choices=tuple(_METHODS), help="lora, or finetune: all weights")
    p.add_argument("--batch_size", type=whole(1, 4096), default=1, help="samples of a card and step (1)")
    p.add_argument("--steps", type=whole(), default=20, help="steps that count (20)")
    p.add_argument("--warm_up_steps", type=whole(), default=3, help="steps before them (3)")
    p.add_argument("--output_dir", default="benchmark_output", help="JSON, curves, log (benchmark_output)")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="where it runs (Ascend where there is one)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Raises:
        UserError: data or model are not as they must be, or the run ended early.
    """
    chosen = parser().parse_args(argv)
    data = user_path(chosen.data)
    file = data / "train.json" if data.is_dir() else data
    if not file.is_file():
        raise DataError(str(file), "there is no such file", "Name the folder of AdvertiseGen, with train.json in it")
    cards = 1 if chosen.parallel == "single" else card_count()
    target = device_of(chosen.device_target)
    method = ("adgen.yaml", "length_192.yaml", *(("lora.yaml",) if chosen.method == "lora" else ()))
    values = of_model(chosen.model, bases=method, device_target=target, seq_length=_SEQ_LENGTH)
    output = user_path(chosen.output_dir)
    record = {
        "type": "BenchmarkRecord",
        "file": str(output / "benchmark.json"),
        "steps": chosen.steps,
        "warm_up_steps": chosen.warm_up_steps,
        "labels": {
            "net": f"{net_name(chosen.model)}_{_METHODS[chosen.method]}",
            "precision": chosen.precision,
            "DPF_mode": chosen.parallel,
            "device": _DEVICES.get(chosen.device, chosen.device),
            "dataset": data.name if data.is_dir() else data.parent.name or data.name,
        },
    }
    half = "float16" if chosen.precision == "amp" else None
    values = laid_over(
        values,
        {
            "train_dataset.data_loader.dataset_dir": str(file),
            "runner_config.batch_size": chosen.batch_size,
            "runner_config.epochs": 1,
            "do_eval": False,
            "parallel_config.data_parallel": cards,
            "callbacks": [{"type": "MFLossMonitor"}, record],
            **precision(values, target, half=half),
        },
    )
    with Monitor(output / "monitor.csv"):
        return carry_out(values, str(output), ranks=cards)


def card_count(environment: Mapping[str, str] = os.environ) -> int:
    """Cards of MLU_VISIBLE_DEVICES (0,1,2,3), ASCEND_RT_VISIBLE_DEVICES or num_card; one where none is set.

    Raises:
        ConfigError: num_card is no number.
    """
    for name in ("MLU_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"):
        if environment.get(name, "").strip():
            return len([part for part in environment[name].split(",") if part.strip()])
    text = environment.get("num_card", "").strip() or "1"
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise ConfigError("num_card", text, "Give the number of cards.")
    return int(text)


def net_name(model: str) -> str:
    """ChatGLM2-6B of a folder chatglm2-6b; other names as they are."""
    name = Path(model.rstrip("/")).name or model
    head, _, size = name.rpartition("-")
    return f"{head.replace('chatglm', 'ChatGLM')}-{size.upper()}" if head.startswith("chatglm") else name


def demo_parser() -> argparse.ArgumentParser:
    """The options of cli_demo.py and web_demo.py."""
    p = Parser(description=__doc__)
    p.add_argument(
        "--model_name_or_path", "--model_path", dest="model", required=True, help="folder or name of a model"
    )
    p.add_argument("--use_v2", help="accepted; no effect (the model's files tell what it is)")
    p.add_argument("--tp_size", type=whole(1, 64), default=1, help="processes that share the network (1)")
    p.add_argument("--port", type=whole(0, 65535), default=7000, help="port of the page (7000)")
    p.add_argument("--temperature", type=float, help="0: always the most probable token")
    p.add_argument("--adapter", help="LoRA on top: PEFT folder or checkpoint")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="CPU, or what the YAML says")
    return p


def cli_demo(argv: Sequence[str] | None = None) -> None:
    """A chat with the tutorial's prompts."""
    chosen = demo_parser().parse_args(argv)
    start(chosen.tp_size, "cli-demo", sys.argv[1:] if argv is None else argv)
    chat.talk(chat.parser().parse_args(_words(chosen)), PHRASES, first=parameter_line)


def web_demo(argv: Sequence[str] | None = None) -> int:
    """The server's page, on the tutorial's port."""
    from mindformers_glm.cli import serve  # noqa: PLC0415 - optional packages

    chosen = demo_parser().parse_args(argv)
    if chosen.temperature is not None:
        raise ConfigError("--temperature", chosen.temperature, "The page has a field for it.")
    words = _words(chosen)
    if chosen.adapter:
        words[words.index("--adapter") + 1] = f"adapter={chosen.adapter}"
    print(f"Running on local URL:  http://127.0.0.1:{chosen.port}", flush=True)
    return serve.main([*words, "--port", str(chosen.port)])


def parameter_line(loaded: Loaded) -> str:
    """The line of the tutorial: nothing is trained in a chat."""
    network = loaded.network
    total = 0 if network is None else network.num_parameters()
    return f"trainable params: 0 || all params: {total} || trainable%: 0.0000"


def _words(chosen: argparse.Namespace) -> list[str]:
    words = ["--model", chosen.model]
    for name in ("adapter", "device_target", "temperature", "tp_size"):
        if getattr(chosen, name) is not None:
            words += [f"--{name}", str(getattr(chosen, name))]
    return words
