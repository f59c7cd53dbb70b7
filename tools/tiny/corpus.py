"""Writes the text that the small models learn: conversations of every skill, without those that are held back.

python -m tools.tiny.corpus corpus.jsonl --lines 120000
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.cli.report import report
from mindformers_glm.files import atomic_write
from tools.tiny import calling, copying, numbers, talking, writing
from tools.tiny.families import FAMILIES, Family
from tools.tiny.sample import Maker, Sample, learned

MOST_LINES = 10_000_000
# skill -> (how often among 100 lines, what makes it)
SKILLS: dict[str, tuple[float, Maker]] = {
    "advert": (18, writing.advert),
    "request": (8, writing.request),
    "english_advert": (4, writing.english),
    "talk": (7, talking.small_talk),
    "names": (3, talking.names),
    "persona": (2, talking.persona),
    "definition": (5, talking.definition),
    "fact": (3, talking.fact),
    "refusal": (4, talking.refusal),
    "arithmetic": (8, numbers.arithmetic),
    "units": (8, numbers.units),
    "repeat": (3, copying.repeat),
    "reading": (3, copying.reading),
    "listing": (2, copying.listing),
    "extraction": (7, copying.extraction),
    "summary": (6, copying.summary),
    "tool_reply": (9, calling.conversation),
    "no_tool": (3, calling.without),
}
MEASURED: dict[str, Maker] = {**{name: maker for name, (_, maker) in SKILLS.items()}, "tool_call": calling.call}
_DIALOGUE, _PLAIN = 4, 1
_IN_DIALOGUES = (
    "request",
    "talk",
    "talk",
    "definition",
    "fact",
    "arithmetic",
    "units",
    "repeat",
    "refusal",
    "summary",
    "extraction",
)


def held_back(skill: str, count: int, seed: int = 0) -> list[Sample]:
    """Up to `count` different prompts of a skill that no corpus has; fewer where the skill has no more."""
    rng, found = random.Random(f"{skill} {seed}"), dict[str, Sample]()
    for _ in range(count * 200):
        sample = MEASURED[skill](rng)
        if sample.is_held_back:
            found.setdefault(sample.prompt, sample)
        if len(found) == count:
            break
    return list(found.values())


def skills_of(family: Family) -> dict[str, tuple[float, Maker]]:
    """What the corpus of a family is made of, as in SKILLS."""
    return {name: skill for name, skill in {**SKILLS, **family.skills}.items() if name not in family.without}


def row(rng: random.Random, skills: Mapping[str, tuple[float, Maker]]) -> dict[str, Any]:
    """One line: {"kind", "messages", "tools"} or {"kind": "plain", "text"}."""
    names = [*skills, "dialogue", "plain"]
    kind = rng.choices(names, [*(share for share, _ in skills.values()), _DIALOGUE, _PLAIN])[0]
    if kind == "plain":
        return {"kind": kind, "text": talking.plain(rng)}
    if kind == "dialogue":
        parts = [learned(rng, skills[rng.choice(_IN_DIALOGUES)][1]) for _ in range(rng.randint(2, 6))]
        return {"kind": kind, "messages": [message for part in parts for message in part.messages]}
    sample = learned(rng, skills[kind][1])
    return {"kind": kind, "messages": sample.messages} | ({"tools": sample.tools} if sample.tools else {})


def corpus(lines: int, seed: int, family: str = "glm3") -> Iterator[dict[str, Any]]:
    """The mixture; the seed decides every line."""
    rng, skills = random.Random(f"tiny {seed}"), skills_of(FAMILIES[family])
    for _ in range(lines):
        yield row(rng, skills)


def write(path: str | Path, lines: int, seed: int = 0, family: str = "glm3") -> None:
    """A JSON-lines file that appears whole or not at all."""
    with atomic_write(path, "w") as file:
        for one in corpus(lines, seed, family):
            file.write(json.dumps(one, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("path", help="the JSON-lines file to write")
    parser.add_argument("--lines", type=whole(1, MOST_LINES), required=True)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--family", choices=sorted(FAMILIES), default="glm3")
    given = parser.parse_args(arguments)
    write(given.path, given.lines, given.seed, given.family)


if __name__ == "__main__":
    sys.exit(report(main))
