"""ModelLink's ChatGLM3 page: its generation and evaluation scripts.

bash scripts/chatglm3/generate_chatglm3_6B.sh         (the variables stand at the top of each script)
bash scripts/chatglm3/evaluate_chatglm3_6B.sh
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mindformers_glm.cli.documents.modellink import readable
from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path

_EVALUATED_LENGTH = 8192  # of ModelLink's evaluation
_PROMPTS = ("how are you?", "Give me some advice about how to stay healthy.", "中国的首都是哪座城市？")


def parser() -> argparse.ArgumentParser:
    """The options of the generation and evaluation scripts."""
    p = Parser(description=__doc__)
    p.add_argument("--load", required=True, help="Megatron folder, or any model")
    p.add_argument("--tokenizer-name-or-path", required=True, help="folder or name of the tokenizer")
    p.add_argument("--task", choices=("chat", "mmlu"), help="mmlu: evaluate; otherwise generate")
    p.add_argument("--task-data-path", help="folder of the task: ./mmlu/data/test/")
    p.add_argument("--max-new-tokens", type=whole(), default=128, help="longest reply (128)")
    p.add_argument("--temperature", type=number(above=True), default=1.0, help="of the sampled reply (1.0)")
    p.add_argument("--top-p", type=number(most=1), default=0.95, help="of the sampled reply (0.95)")
    p.add_argument("--top-k", type=whole(0), default=50, help="of the sampled reply (50)")
    p.add_argument("--output_dir", default="modellink_output", help="ours: converted weights, results")
    p.add_argument("--limit", type=whole(), help="ours: questions of each subject (all)")
    p.add_argument("--batch-size", type=whole(), default=8, help="ours: questions at a time (8)")
    p.add_argument("--seq-length", type=whole(2), help="longest prompt and reply")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="ours: where it runs")
    return p


def infer(argv: Sequence[str] | None = None) -> int:
    """Generates three ways (greedy, sampling, beam search) for prompts, or evaluates MMLU as ModelLink asks it.

    Raises:
        UserError: the weights, the tokenizer or the data is not as it must be.
    """
    chosen = parser().parse_args(argv)
    model = readable(chosen.load, chosen.tokenizer_name_or_path, user_path(chosen.output_dir) / "loaded")
    common = ["--model", model, "--tokenizer", chosen.tokenizer_name_or_path]
    if chosen.task == "mmlu" and chosen.seq_length is None:
        chosen.seq_length = _EVALUATED_LENGTH
    for name in ("device_target", "seq_length"):
        if getattr(chosen, name) is not None:
            common += [f"--{name}", str(getattr(chosen, name))]
    if chosen.task == "mmlu":
        return _evaluate(chosen, common)
    from mindformers_glm.cli import chat  # noqa: PLC0415 - needs MindSpore
    from mindformers_glm.generation.generate import generate  # noqa: PLC0415

    loaded = chat.load_chosen(chat.parser().parse_args(common))
    base = loaded.engine.defaults.updated(repetition_penalty=1.0, max_length=None, max_new_tokens=chosen.max_new_tokens)
    sampled = {"top_k": chosen.top_k, "top_p": chosen.top_p, "temperature": chosen.temperature, "seed": 1234}
    ways = {
        "Greedy Search": base.updated(do_sample=False, num_beams=1),
        "Do Sample": base.updated(do_sample=True, num_beams=1, **sampled),
        "Beam Search": base.updated(do_sample=False, num_beams=2),
    }
    for title, config in ways.items():
        for prompt in _PROMPTS:
            ids = loaded.tokenizer.encode(prompt)
            reply = generate(loaded.engine, [ids], config)[0]
            print(f"=============== {title} ================\nYou:\n{prompt}\n\nModelLink:")
            print(loaded.tokenizer.decode(list(reply.ids), skip_special_tokens=True).strip() + "\n", flush=True)
    return 0


def _evaluate(chosen: argparse.Namespace, common: list[str]) -> int:
    from mindformers_glm.cli import evaluate  # noqa: PLC0415 - needs MindSpore

    if not chosen.task_data_path:
        raise ConfigError("--task-data-path", None, "Name the folder of MMLU's test files.")
    folder = user_path(chosen.task_data_path)
    if not folder.is_dir():
        raise DataError(str(folder), "there is no such folder", "Name the folder of MMLU's test files")
    data = folder.parent if folder.name == "test" else folder
    words = ["--tasks", "mmlu", "--way", "modellink", "--data_dir", str(data), "--output_dir", chosen.output_dir]
    words += ["--batch_size", str(chosen.batch_size)]
    if chosen.limit is not None:
        words += ["--limit", str(chosen.limit)]
    status = evaluate.main([*common, *words])
    table = Path(chosen.output_dir) / "results.json"
    if status == 0 and table.is_file():
        _print_table(table)
    return status


def _print_table(results: Path) -> None:
    """Subject, questions and accuracy, and the total: the table of ModelLink's evaluation."""
    found = json.loads(results.read_text(encoding="utf-8"))
    counts = {name: row["effective"] for name, row in found["n-samples"].items()}
    print(f"{'subject':<44}{'question_n':>12}{'acc':>10}")
    for name, count in counts.items():
        print(f"{name.removeprefix('mmlu_'):<44}{count:>12}{found['results'][name]['acc,none']:>10.6f}")
    print(f"{'total':<44}{sum(counts.values()):>12}{found['groups']['mmlu']['acc,none']:>10.6f}")
