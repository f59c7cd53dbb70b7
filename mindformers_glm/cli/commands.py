"""The table of subcommands: name -> the function that runs it. A new one is one line here.

A function takes the words after its name and returns an exit status or nothing. The function `parser` of the same
module, or the one that the row names, gives the options for completion; some commands have none. Modules are imported
when their command is called, and what needs MindSpore or reads weights only after their options are read.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, NamedTuple


class Command(NamedTuple):
    """`target` is `module:function`, `help` one line, `options` the function of that module that gives the parser."""

    target: str
    help: str
    options: str = "parser"

    def load(self) -> Any:
        """The function."""
        module, _, function = self.target.partition(":")
        return getattr(import_module(module), function)

    def parser(self) -> argparse.ArgumentParser | None:
        """The parser of its options; None where the module has none."""
        make = getattr(import_module(self.target.partition(":")[0]), self.options, None)
        return make() if make else None


_HERE = "mindformers_glm.cli"
COMMANDS: dict[str, Command] = {
    "run": Command(f"{_HERE}.run:main", "train, fine-tune, evaluate or predict from one YAML"),
    "chat": Command(f"{_HERE}.chat:main", "talk to a model in the terminal"),
    "serve": Command(f"{_HERE}.serve:main", "a model over OpenAI's HTTP interface, with a page to talk to it"),
    "fastchat-worker": Command(f"{_HERE}.serve:fastchat_worker", "the same behind FastChat's controller"),
    "evaluate": Command(f"{_HERE}.evaluate:main", "C-Eval, CMMLU, MMLU, perplexity, or a metric on a dataset"),
    "compare": Command(f"{_HERE}.compare:main", "answers before and after tuning, and what was forgotten"),
    "lm-eval": Command(f"{_HERE}.lm_eval:main", "lm-evaluation-harness with one of these models"),
    "predict": Command(f"{_HERE}.run:predict", "texts for prompts"),
    "convert": Command(f"{_HERE}.convert:main", "a checkpoint in another form"),
    "merge-lora": Command(f"{_HERE}.merge_lora:main", "a LoRA added to its base weights"),
    "transform": Command(f"{_HERE}.transform:main", "a checkpoint divided in another way among ranks"),
    "quantize": Command(f"{_HERE}.quantize:main", "a model with weights of 8 or 4 bits"),
    "export": Command(f"{_HERE}.export:main", "a network as MindIR"),
    "convert-lite": Command(f"{_HERE}.convert_lite:main", "an export as MindSpore Lite's own file"),
    "infer-lite": Command(f"{_HERE}.infer_lite:main", "texts from an export, in MindSpore Lite"),
    "preprocess": Command(f"{_HERE}.preprocess:main", "text as .bin/.idx pairs of token ids, for pretraining"),
    "inspect-data": Command(
        f"{_HERE}.inspect_data:main", "what a data file holds: lengths, faults, duplicates, samples"
    ),
    "preview-data": Command(f"{_HERE}.preview_data:main", "what training sees of a data file, token by token"),
    "chat-template": Command(f"{_HERE}.chat_template:main", "a model's own chat template beside our chat format"),
    "inspect": Command(f"{_HERE}.inspect_checkpoint:main", "what a checkpoint is, and what is wrong with it"),
    "verify": Command(f"{_HERE}.verify:main", "whether a checkpoint is as it was written"),
    "plan": Command(f"{_HERE}.plan_memory:main", "the memory that a training job needs on each device"),
    "atb": Command(f"{_HERE}.documents.atb:main", "main.py of the ATB guide: precision, performance, cli_demo"),
    "cambricon-benchmark": Command(
        f"{_HERE}.documents.cambricon:main", "test_benchmark.sh of Cambricon: real training steps as a JSON"
    ),
    "cli-demo": Command(f"{_HERE}.documents.cambricon:cli_demo", "cli_demo.py of Cambricon", "demo_parser"),
    "web-demo": Command(
        f"{_HERE}.documents.cambricon:web_demo", "web_demo.py: the server's page on port 7000", "demo_parser"
    ),
    "fastchat-train": Command(f"{_HERE}.documents.fastchat:main", "FastChat's trainer, with its flags"),
    "fastchat-cli": Command(f"{_HERE}.documents.fastchat:cli", "FastChat's chat in the terminal", "cli_parser"),
    "modellink-train": Command(
        f"{_HERE}.documents.modellink:train", "ModelLink's pretrain and tune scripts, with flags"
    ),
    "modellink-infer": Command(f"{_HERE}.documents.modellink_infer:infer", "ModelLink's generate and evaluate scripts"),
    "modellink-convert": Command(
        f"{_HERE}.documents.modellink:convert_ckpt", "ModelLink's convert_ckpt.py", "convert_parser"
    ),
    "export-quant-weight": Command(
        f"{_HERE}.documents.quant_weights:export", "ATB's export_quant_weight.py: W8A8 files", "export_parser"
    ),
    "process-weights": Command(
        f"{_HERE}.documents.quant_weights:process", "ATB's process_weights.py: weights by rank", "process_parser"
    ),
    "compress-weights": Command(
        f"{_HERE}.documents.quant_weights:compress", "ATB's generate_compress_weight.py", "compress_parser"
    ),
    "doctor": Command(f"{_HERE}.doctor:main", "whether this machine has what the suite needs, and what to do"),
    "conformance": Command(
        f"{_HERE}.conformance:main", "whether a device computes what the suite means, operator by operator"
    ),
    "benchmark": Command("mindformers_glm.benchmark.command:main", "how fast this machine trains and generates"),
}
