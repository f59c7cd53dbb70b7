r"""Generates with an exported model in MindSpore Lite: `mindformers-glm infer-lite --model_dir glm2_tiny_export`.

Without --predict_data it asks for one prompt after the other; `exit` ends it. A line that ends in a backslash goes on
in the next, and the two characters \n are a line break in prompts and in --prompt. MindSpore is not needed.
"""

from __future__ import annotations

import argparse

from mindformers_glm.cli.options import Parser, whole

# MindFormers' options that the export itself answers here.
_TOLD = {
    "dynamic": "the exported graph is of fixed or of any length by itself",
    "paged_attention": "the cache is no part of the graph",
    "pa_block_size": "the cache is no part of the graph",
    "pa_num_blocks": "the cache is no part of the graph",
    "is_sample_acceleration": "tokens are chosen outside the graph",
    "distributed": "one process serves the model",
}


def switch(text: str) -> bool:
    """True or False of a word on the command line."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"got {text!r}, use True or False")
    return text.lower() == "true"


def parser() -> argparse.ArgumentParser:
    """The options, under MindFormers' names."""
    parsed = Parser(description=__doc__)
    add = parsed.add_argument
    add("--model_dir", metavar="DIR", help="folder of an export; or name a graph or two with the next options")
    add("--prefill_model_path", metavar="FILE", help="a graph of the export (.mindir, _graph.mindir or .ms)")
    add("--increment_model_path", metavar="FILE", help="its second graph; may be the same file")
    add("--tokenizer_path", metavar="FILE", help="the tokenizer, unless it was exported with the model")
    add("--model_name", default="common", help="glm2_6b, glm3_6b, ...; the export knows by itself")
    add("--seq_length", type=whole(), help="must be that of the export, where it is given")
    add("--config_path", metavar="INI", help="lite.ini, or two files with a comma between")
    add("--lite_python", metavar="PYTHON", help="interpreter with mindspore_lite; found by itself otherwise")
    add("--device_target", default="cpu", help="cpu or ascend")
    add("--device_id", type=whole(0), default=0)
    add("--rank_id", type=whole(0), default=0)
    add("--threads", type=whole(1, 1024), help="threads on a CPU; all of them by default")
    add("--predict_data", nargs="+", metavar="TEXT", help="prompts, or a file with one in each line; then it ends")
    add("--prompt", default="", help=r"template around each prompt, with {} for it: '[Round 1]\n\n问：{}\n\n答：'")
    add("--batch_size", type=whole(), default=1, help="prompts of --predict_data worked on together")
    add("--max_length", type=whole(), default=512, help="tokens of prompt and reply together")
    add("--max_output_length", type=whole(), help="tokens of the reply alone; wins over --max_length")
    add("--do_sample", type=switch, default=False)
    add("--top_k", type=int, help="draw from so many best tokens (50 with --do_sample True)")
    add("--top_p", type=float)
    add("--repetition_penalty", type=float)
    add("--temperature", type=float)
    add("--add_special_tokens", type=switch, default=True, help="the ids that every GLM prompt begins with")
    add("--stream", type=switch, default=False, help="show the reply as it grows")
    add("--generated_time", type=whole(), default=1, help="how often --predict_data is answered, for measuring")
    for name, why in _TOLD.items():
        add(f"--{name}", help=f"no effect: {why}")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    """Answers what was given, or what is typed."""
    args = parser().parse_args(arguments)
    from mindformers_glm.cli.lite_chat import run  # noqa: PLC0415 - opens models

    run(args)
