"""How much of a product an advertisement names: the attributes of each line of samples.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from tools.glm2_tiny.advert import named, read_content


def coverage(samples: Path, data: Path) -> dict[str, float]:
    """`attributes`: per cent of all attributes that the texts name; `whole`: per cent of texts that name every one.

    `samples` is what `evaluate --tasks adgen` wrote about the lines of `data`.
    """
    contents = [json.loads(line)["content"] for line in data.read_text(encoding="utf-8").splitlines()]
    asked = said = whole = lines = 0
    for line in samples.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pairs = read_content(contents[row["line"] - 1])
        found = len(named(pairs, row["response"]))
        asked, said, lines, whole = asked + len(pairs), said + found, lines + 1, whole + (found == len(pairs))
    return {"attributes": 100 * said / max(asked, 1), "whole": 100 * whole / max(lines, 1)}
