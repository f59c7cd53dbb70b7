"""The ATB guide's main.py: accuracy of one question or of C-Eval, times of given lengths, a chat in the terminal.

    python tools/main.py --mode precision_single --model_path chatglm2-6b
    python tools/main.py --mode precision_dataset --model_path chatglm2-6b --ceval_dataset CEval --batch 8
    python tools/main.py --mode performance --model_path chatglm2-6b --batch 1 --performance_output_file bs1.csv
    python tools/main.py --mode cli_demo --model_path chatglm2-6b

MAX_SEQ_LEN (2048) bounds prompt and reply together. The other variables of the guide are accepted and their effect is
said. See docs/migration.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_glm.benchmark.lengths import check_pairs, read_lengths
from mindformers_glm.cli import chat
from mindformers_glm.cli.documents import environment
from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.cli.ranks import start
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.serving.phrases import CHINESE

if TYPE_CHECKING:
    from mindformers_glm.serving.loading import Loaded

MODES = ("precision_single", "precision_dataset", "performance", "cli_demo")
RESULT = "precison_result.json"  # as the document spells it
_WELCOME = "欢迎使用 ChatGLM2-6B 模型，输入内容即可进行对话，clear 清空对话历史，stop 终止程序"
PHRASES = dataclasses.replace(CHINESE, question="\n用户：", answer="", welcome=_WELCOME, cleared=_WELCOME)
_QUESTION = (
    "发现传染病病例后及时把病人隔离起来，这一措施属于____\nA. 保护易感人群\nB. 切断传播途径\nC. 控制传染源\nD. 预防接种"
)
_ASKED = ("中国的首都是哪座城市？", "写一首关于春天的诗。", "初学者怎样学习编程？", "六条直线最多有几个交点？")
_ROUND = "[Round 1]\n\n问：{}\n\n答："


def parser() -> argparse.ArgumentParser:
    """The document's arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--mode", choices=MODES, default="precision_dataset", help="what to do (precision_dataset)")
    p.add_argument("--model_path", required=True, help="folder of the model, or any name that a model has here")
    p.add_argument("--tp_size", type=whole(1, 1024), default=1, help="tensor ranks (1)")
    p.add_argument("--device", type=whole(0, 1024), default=0, help="first device (0)")
    p.add_argument("--batch", type=whole(1, 1024), default=1, help="questions or rows at a time (1)")
    p.add_argument("--model_file", help="accepted; no effect (one network serves every device)")
    p.add_argument("--ceval_dataset", help="the processed C-Eval package: val/<Category>/<subject>.jsonl")
    p.add_argument("--limit", type=whole(), help="ours: rows of each file (all)")
    p.add_argument("--set_case_pair", type=int, choices=(0, 1), help="1: pairs; 0: ranges of powers of two")
    p.add_argument("--seqlen_in_pair", type=read_lengths, default=[256, 512, 1024], help="prompts (256,512,1024)")
    p.add_argument("--seqlen_out_pair", type=read_lengths, default=[256, 512, 1024], help="replies (256,512,1024)")
    p.add_argument("--seqlen_in_range", type=read_lengths, help="5,10: prompts of 2^5 to 2^10 tokens")
    p.add_argument("--seqlen_out_range", type=read_lengths, help="5,10: replies of 2^5 to 2^10 tokens")
    p.add_argument("--performance_output_file", default="performance.csv", help="times are appended (performance.csv)")
    p.add_argument("--print_response", action="store_true", help="show the replies of --mode performance")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="ours: CPU, or what the YAML says")
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the mode.

    Raises:
        UserError: an argument, a file or the model is not as it must be.
    """
    chosen = parser().parse_args(argv)
    for line in environment.said():
        print(line, file=sys.stderr)
    if os.environ.get("ENABLE_SPARSE") == "1" and os.environ.get("ENABLE_QUANT") != "1":
        fix = (
            "Compressed weights are read by NPUs alone: ENABLE_QUANT=1 with QUANT_WEIGHT_PATH runs sparse weights here."
        )
        raise ConfigError("ENABLE_SPARSE", "1", fix)
    check_mode(chosen)
    os.environ.setdefault("DEVICE_ID", str(chosen.device))
    start(chosen.tp_size, "atb", sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("GLOG_v", "3")
    modes = {
        "precision_single": _single,
        "precision_dataset": _dataset,
        "performance": _performance,
        "cli_demo": _chat,
    }
    modes[chosen.mode](chosen)


def check_mode(chosen: argparse.Namespace) -> None:
    """Raises ConfigError where the mode lacks something, before any process is started."""
    if chosen.mode == "precision_dataset":
        if not chosen.ceval_dataset:
            fix = "Name the processed C-Eval package for --mode precision_dataset."
            raise ConfigError("--ceval_dataset", None, fix)
        if not user_path(chosen.ceval_dataset).is_dir():
            raise ConfigError("--ceval_dataset", chosen.ceval_dataset, "There is no such folder.")
    if chosen.mode == "performance":
        check_pairs(*lengths(chosen), longest=environment.max_seq_len() or environment.USUAL_MAX_SEQ_LEN)


def _load(words: argparse.Namespace) -> Loaded:
    """The model of the words; its linear layers are those of QUANT_WEIGHT_PATH with ENABLE_QUANT=1."""
    if os.environ.get("ENABLE_QUANT") != "1":
        return chat.load_chosen(words)
    folder = os.environ.get("QUANT_WEIGHT_PATH", "")
    if not folder:
        raise ConfigError("QUANT_WEIGHT_PATH", None, "Name the folder that tools/export_quant_weight.py wrote.")
    return chat.load_chosen(words, quantization_scheme="w8a8", quantization_weights=folder)


def _chat_words(chosen: argparse.Namespace, *more: str) -> argparse.Namespace:
    words = ["--model", chosen.model_path, "--tp_size", str(chosen.tp_size), *more]
    if chosen.device_target:
        words += ["--device_target", chosen.device_target]
    longest = environment.max_seq_len()
    if longest is not None:
        words += ["--seq_length", str(longest)]
    return chat.parser().parse_args(words)


def _single(chosen: argparse.Namespace) -> None:
    """The model's greedy answer to one question, `batch` times."""
    loaded = _load(_chat_words(chosen))
    from mindformers_glm.generation.generate import generate  # noqa: PLC0415 - needs MindSpore

    ids = _ids(loaded.tokenizer, _QUESTION)
    room = loaded.engine.max_length - len(ids)
    config = loaded.engine.defaults.updated(
        do_sample=False, num_beams=1, repetition_penalty=1.0, max_length=None, max_new_tokens=min(512, max(room, 1))
    )
    print(f"Question:\n\n{_QUESTION}\n\nAnswer:\n")
    for result in generate(loaded.engine, [ids] * chosen.batch, config):
        print(loaded.tokenizer.decode(list(result.ids), skip_special_tokens=True).strip())


def _dataset(chosen: argparse.Namespace) -> None:
    """Accuracy on every file of the package, and of all questions; appended to precison_result.json."""
    from mindformers_glm.evaluation.answering import answer  # noqa: PLC0415 - needs MindSpore
    from mindformers_glm.evaluation.tasks.ceval_package import CEvalPackage  # noqa: PLC0415

    loaded = _load(_chat_words(chosen))
    task = CEvalPackage(loaded.tokenizer, chosen.ceval_dataset, limit=chosen.limit)
    answered = answer(task, loaded.engine, batch_size=chosen.batch, shows_bar=sys.stderr.isatty())
    results = task.results(answered.judged)
    figures = {name: row["acc"] for name, row in results.subjects.items()}
    for name, accuracy in figures.items():
        print(name, accuracy)
    total = results.groups[task.name]["acc"]
    print(total)
    with Path(RESULT).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**figures, "acc_total": total}))


def _performance(chosen: argparse.Namespace) -> None:
    """Times of the pairs of lengths, printed and appended to the file."""
    from mindformers_glm.benchmark.pairs import append_line, measure_pair, warm_up  # noqa: PLC0415 - needs MindSpore

    longest = environment.max_seq_len() or environment.USUAL_MAX_SEQ_LEN
    pairs = check_pairs(*lengths(chosen), longest=longest)
    loaded = _load(_chat_words(chosen, "--seq_length", str(longest)))
    prompts = [_ids(loaded.tokenizer, text) for text in itertools.islice(itertools.cycle(_ASKED), chosen.batch)]
    print("warm up start")
    warm_up(loaded.engine, prompts, min(max(given for given, _ in pairs), longest - 4))
    print("warm up end")
    for given, wanted in pairs:
        figures, replies = measure_pair(loaded.engine, prompts, given, wanted)
        print(figures.said, flush=True)
        append_line(chosen.performance_output_file, figures)
        if chosen.print_response:
            print([loaded.tokenizer.decode(ids) for ids in replies])


def lengths(chosen: argparse.Namespace) -> tuple[list[int], list[int]]:
    """Tokens of prompts and of answers, pair by pair: those given, or powers of two in the ranges."""
    ranges = (chosen.seqlen_in_range, chosen.seqlen_out_range)
    if chosen.set_case_pair == 1 or (chosen.set_case_pair is None and ranges == (None, None)):
        return chosen.seqlen_in_pair, chosen.seqlen_out_pair
    sides = [_powers(given or [5, 10]) for given in ranges]
    both = list(itertools.product(*sides))
    return [given for given, _ in both], [wanted for _, wanted in both]


def _powers(ends: list[int]) -> list[int]:
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 24:
        fix = "Give the first and the last power of two, for example 5,10."
        raise ConfigError("--seqlen_in_range", ",".join(map(str, ends)), fix)
    return [2**power for power in range(ends[0], ends[1] + 1)]


def _chat(chosen: argparse.Namespace) -> None:
    chat.talk(_chat_words(chosen), PHRASES, load=_load)


def _ids(tokenizer: object, question: str) -> list[int]:
    return tokenizer.encode(_ROUND.format(question))  # type: ignore[attr-defined]
