"""The figures of the small models as tables of Markdown, as docs/models.md shows them.

python -m tools.tiny.table glm3_tiny
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mindformers_glm.cli.options import Parser
from mindformers_glm.cli.report import report

FIGURES = Path(__file__).parent / "figures"  # NAME.json: what `tools.tiny.measure NAME --count 500 --output` wrote
_COLUMNS = ("right", "coverage", "repeated", "valid", "perplexity", "fluency")
_HEADS = {
    "en": (
        "skill",
        "prompts",
        "right %",
        "named %",
        "repeats itself %",
        "valid calls %",
        "perplexity",
        "its replies under the judge",
    ),
    "zh": ("技能", "提示词", "正确 %", "提到 %", "重复 %", "有效调用 %", "困惑度", "其回复在评判模型下"),
}


def read(name: str) -> dict[str, dict[str, float]]:
    """The figures of a model that ships, by skill."""
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def markdown(figures: dict[str, dict[str, float]], language: str = "en") -> list[str]:
    """One line a skill; columns that no skill has are left out."""
    heads = dict(zip(("prompts", *_COLUMNS), _HEADS[language][1:], strict=True))
    shown = ["prompts", *(name for name in _COLUMNS if any(name in row for row in figures.values()))]
    lines = [f"| {_HEADS[language][0]} | " + " | ".join(heads[name] for name in shown) + " |"]
    lines.append("|---" * (len(shown) + 1) + "|")
    for skill, row in figures.items():
        cells = [_cell(name, row.get(name)) for name in shown]
        lines.append(f"| {skill} | " + " | ".join(cells) + " |")
    return lines


def _cell(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if name in ("perplexity", "fluency") else f"{value:g}"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="a model that ships")
    parser.add_argument("--lang", choices=sorted(_HEADS), default="en")
    given = parser.parse_args(arguments)
    print("\n".join(markdown(read(given.model), given.lang)))


if __name__ == "__main__":
    sys.exit(report(main))
