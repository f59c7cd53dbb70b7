"""How much of a product an advertisement names: the attributes of each line of predictions.jsonl."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tools.glm2_tiny.advert import named, read_content

_ASKED = re.compile(r"问：(.*?)\n\n答：", re.DOTALL)


def coverage(predictions: Path) -> dict[str, float]:
    """`attributes`: per cent of all attributes that the texts name; `whole`: per cent of texts that name every one."""
    asked = said = whole = lines = 0
    for line in predictions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pairs = read_content(_ASKED.search(row["prompt"])[1])  # type: ignore[index]
        found = len(named(pairs, row["prediction"]))
        asked, said, lines, whole = asked + len(pairs), said + found, lines + 1, whole + (found == len(pairs))
    return {"attributes": 100 * said / max(asked, 1), "whole": 100 * whole / max(lines, 1)}
