"""What tuning did to a model: answers before and after side by side, and perplexity on general text.

    mindformers-glm compare --base glm2_tiny --tuned output/law --prompts questions.txt
    mindformers-glm compare --base glm3_folder --tuned lora_folder --prompts dev.json --chat --output_file told.json

--tuned is a run's output folder, a model, or an adapter (PEFT folder, LoRA checkpoint) for the base. A prompt a line,
or JSON with prompt (content, question, instruction) and, where there is one, the wanted answer (summary, output).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.errors import ConfigError, DataError


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--base", required=True, help="the model before: registered name, folder, weight file, run or YAML")
    p.add_argument("--tuned", required=True, help="the model after: a run's output folder, a model, or an adapter")
    p.add_argument("--prompts", required=True, metavar="FILE", help="what both are asked: .txt, .json or .jsonl")
    p.add_argument(
        "--general", metavar="FILE", help="general text for the perplexity: .txt, .jsonl or .json (ten lines)"
    )
    p.add_argument("--chat", action="store_true", help="ask in the model's own chat format (as written)")
    p.add_argument("--tokenizer", help="tokenizer instead of the base's own")
    p.add_argument("--lora_alpha", type=number(above=True), help="alpha of an adapter, where no file tells it")
    p.add_argument("--limit", type=whole(), help="prompts (all)")
    p.add_argument("--max_new_tokens", type=whole(), default=128, help="longest answer in tokens (128)")
    p.add_argument("--batch_size", type=whole(1, 1024), default=8, help="prompts at a time (8)")
    p.add_argument("--seq_length", type=whole(), help="longest prompt and answer in tokens (the model's)")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="CPU, or what the YAML says")
    p.add_argument("--output_file", metavar="FILE", help="the same as JSON")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    chosen = parser().parse_args(argv)
    from mindformers_glm.cli.report import report  # noqa: PLC0415

    return report(lambda: _compare(chosen))


def _compare(chosen: argparse.Namespace) -> None:
    os.environ.setdefault("GLOG_v", "3")
    from mindformers_glm.assembly.parts import is_adapter_alone  # noqa: PLC0415
    from mindformers_glm.checkpoint.load.resolve import resolve  # noqa: PLC0415
    from mindformers_glm.evaluation import before_after  # noqa: PLC0415 - brings what computes
    from mindformers_glm.files import read_small, user_path, write_text  # noqa: PLC0415
    from mindformers_glm.serving.loading import load  # noqa: PLC0415

    place = user_path(chosen.prompts)
    try:
        prompts, references = before_after.read_prompts(read_small(place).decode("utf-8-sig"), place.suffix.lower())
    except ValueError as error:  # not UTF-8 too
        raise DataError(str(place), f"it cannot be read ({error})", "Give a prompt a line, or JSON lines.") from error
    prompts, references = prompts[: chosen.limit], references[: chosen.limit]
    if not prompts:
        raise DataError(str(place), "there is no prompt in it", "Write a prompt a line.")
    if chosen.general is not None and not user_path(chosen.general).exists():
        raise ConfigError("--general", chosen.general, "There is no such file. Leave it out for ten lines of our own.")
    on_base = not chosen.tuned.endswith((".yaml", ".yml")) and is_adapter_alone(resolve(chosen.tuned))
    models = [(chosen.base, None), (chosen.base, chosen.tuned) if on_base else (chosen.tuned, None)]
    told = []
    with tempfile.TemporaryDirectory() as folder:
        texts = (
            user_path(chosen.general) if chosen.general else before_after.write_general(Path(folder) / "general.txt")
        )
        for (model, adapter), name in zip(models, (chosen.base, chosen.tuned), strict=True):
            loaded = load(
                model,
                adapter=adapter,
                lora_alpha=chosen.lora_alpha if adapter else None,
                tokenizer=chosen.tokenizer,
                seq_length=chosen.seq_length,
                device_target=chosen.device_target,
            )
            told.append(
                before_after.ask(
                    name,
                    loaded.engine,
                    loaded.tokenizer,
                    prompts,
                    texts=texts,
                    chat=chosen.chat,
                    max_new_tokens=chosen.max_new_tokens,
                    batch_size=chosen.batch_size,
                )
            )
            del loaded  # one model in memory at a time
    print(before_after.as_text(told[0], told[1], prompts, references))
    if chosen.output_file:
        values = before_after.as_values(told[0], told[1], prompts, references)
        write_text(user_path(chosen.output_file), json.dumps(values, ensure_ascii=False, indent=1) + "\n")
