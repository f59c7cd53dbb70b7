#!/usr/bin/env python3
"""Makes Lite's own file (.ms) of an export, quantised if asked: `tools/convert_lite.py EXPORT --quantize mixed`.

It is then run beside float32: size, error of the logits, how often the most probable token is the same, time per token.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindformers_glm.cli import report  # noqa: E402
from mindformers_glm.evaluation.predict import read_inputs  # noqa: E402
from mindformers_glm.export.lite.convert import QUANTIZATIONS, convert_lite  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The options."""
    kinds = "\n".join(f"  {name:8} {kind.note}" for name, kind in QUANTIZATIONS.items())
    parsed = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"quantizations:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parsed.add_argument("model", help="folder of an export, or its manifest")
    parsed.add_argument("--quantize", default="none", metavar="KIND", help=f"one of {', '.join(QUANTIZATIONS)}")
    parsed.add_argument("--lite_python", metavar="PYTHON", help="interpreter with mindspore_lite")
    parsed.add_argument("--optimize", default="", help="for the Converter, as ascend_oriented:910b with a newer Lite")
    parsed.add_argument("--predict_data", nargs="+", metavar="TEXT", help="prompts for the report, or a file of them")
    parsed.add_argument("--threads", type=int, help="threads for the report; all of them by default")
    return parsed


def run(args: argparse.Namespace) -> None:
    """Converts and prints the report."""
    words = args.predict_data
    prompts = {} if not words else {"prompts": read_inputs(words[0] if len(words) == 1 else words, unescape=True)}
    made = convert_lite(
        args.model,
        quantization=args.quantize,
        lite_python=args.lite_python,
        optimize=args.optimize,
        threads=args.threads,
        **prompts,
    )
    print("\n".join(made.lines()))


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    args = parser().parse_args(arguments)
    return report(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
