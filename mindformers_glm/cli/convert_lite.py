"""Makes Lite's own file (.ms) of an export, quantised if asked: `mindformers-glm convert-lite EXPORT --quantize mixed`.

It is then run beside float32: size, error of the logits, how often the most probable token is the same, time per token.
"""

from __future__ import annotations

import argparse

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.export.lite.quantizations import QUANTIZATIONS


def parser() -> argparse.ArgumentParser:
    """The options."""
    kinds = "\n".join(f"  {name:8} {kind.note}" for name, kind in QUANTIZATIONS.items())
    parsed = Parser(description=__doc__, epilog=f"quantizations:\n{kinds}")
    parsed.add_argument("model", help="folder of an export, or its manifest")
    parsed.add_argument("--quantize", default="none", metavar="KIND", help=f"one of {', '.join(QUANTIZATIONS)}")
    parsed.add_argument("--lite_python", metavar="PYTHON", help="interpreter with mindspore_lite")
    parsed.add_argument("--optimize", default="", help="for the Converter, as ascend_oriented:910b with a newer Lite")
    parsed.add_argument("--predict_data", nargs="+", metavar="TEXT", help="prompts for the report, or a file of them")
    parsed.add_argument("--threads", type=whole(1, 1024), help="threads for the report; all of them by default")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    """Converts and prints the report."""
    args = parser().parse_args(arguments)
    from mindformers_glm.evaluation.prediction import read_inputs  # noqa: PLC0415 - not for --help
    from mindformers_glm.export.lite.convert import convert_lite  # noqa: PLC0415

    words = args.predict_data
    prompts = read_inputs(words[0] if len(words) == 1 else words, unescape=True) if words else None
    made = convert_lite(
        args.model,
        quantization=args.quantize,
        lite_python=args.lite_python,
        optimize=args.optimize,
        threads=args.threads,
        prompts=prompts,
    )
    print("\n".join(made.lines()))
