"""What a row is, told by its columns: which loader and dataset read it. A form is one entry of FORMS."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
PAIRS = (  # columns of a prompt and of its answer, the usual names first
    ("content", "summary"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("instruction", "response"),
    ("input", "output"),
    ("question", "response"),
    ("question", "std_answer"),
    ("prompt", "answer"),
    ("context", "target"),
    ("source", "target"),
    ("inputs", "targets"),
    ("问题", "答案"),
    ("问题", "回答"),
)
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog")


@dataclass(frozen=True)
class Form:
    """A way of writing rows down. `loader` are the arguments of the data loader beside the file."""

    name: str
    loader: dict[str, Any]
    dataset: str = "MultiTurnDataset"
    refused: str = ""  # why such rows are not learned, and what to do
    columns: frozenset[str] = frozenset()  # of the row that told it

    @property
    def said(self) -> str:
        """The loader's name and arguments, for people."""
        more = ", ".join(f"{key}: {value}" for key, value in self.loader.items() if key != "type")
        return f"{self.loader['type']} ({more})" if more else self.loader["type"]


@dataclass(frozen=True)
class _Kind:
    name: str
    holds: Callable[[Row], Any]
    loader: Callable[[Row], dict[str, Any]] = field(default=lambda row: {})
    dataset: str = "MultiTurnDataset"
    refused: str = ""


def turns_of(row: Row) -> tuple[str, list[Any]] | None:
    """Name and value of the column that holds the turns of a conversation, also where it is JSON in a text."""
    for name in TURNS:
        value = row.get(name)
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            try:
                value = json.loads(value, strict=False)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, list) and value:
            return name, value
    return None


def _turn_has(row: Row, *names: str) -> bool:
    found = turns_of(row)
    return found is not None and any(isinstance(turn, Mapping) and set(names) <= turn.keys() for turn in found[1])


def _pair(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)


def _pair_loader(row: Row) -> dict[str, Any]:
    prompt, answer = _pair(row) or ("", "")
    if (prompt, answer) == ("content", "summary"):
        return {"type": "ADGenDataLoader", "origin_columns": [prompt, answer]}
    if (prompt, answer) == ("instruction", "output"):
        return {"type": "AlpacaDataLoader"}
    columns = {"prompt": prompt, "response": answer}
    if "input" not in (prompt, answer) and isinstance(row.get("input"), str):
        columns["query"] = "input"
    return {"type": "AlpacaDataLoader", "columns": columns}


def _is_preference(row: Row) -> bool:
    return {"chosen", "rejected"} <= row.keys()


FORMS = (
    _Kind(
        "preferences",
        _is_preference,
        refused="Preference data (chosen, rejected) is for DPO, which is not trained here: keep the chosen replies, "
        "as `output` or as the last turn",
    ),
    _Kind(
        "messages",
        lambda row: _turn_has(row, "role") or _turn_has(row, "human", "assistant"),
        lambda row: {"type": "ConversationDataLoader"},
    ),
    _Kind("ShareGPT", lambda row: _turn_has(row, "from", "value"), lambda row: {"type": "ShareGPTDataLoader"}),
    _Kind("pairs", _pair, _pair_loader),
    _Kind(
        "text",
        lambda row: isinstance(row.get("text"), str),
        lambda row: {"type": "TextDataLoader"},
        dataset="CausalLanguageModelDataset",
    ),
)
_PAIR_NAMES = {"ADGenDataLoader": "ADGEN", "AlpacaDataLoader": "alpaca"}


def form_of(row: Any) -> Form | None:
    """The form of a row, None where its columns say nothing."""
    if isinstance(row, str) and row.strip():
        return Form("text", {"type": "TextDataLoader"}, "CausalLanguageModelDataset")
    if not isinstance(row, Mapping):
        return None
    kind = next((kind for kind in FORMS if kind.holds(row)), None)
    if kind is None:
        return None
    columns = frozenset(map(str, row))
    if kind.refused:
        return Form(kind.name, {"type": "none"}, kind.dataset, kind.refused, columns)
    loader = kind.loader(row)
    name = kind.name
    if kind.name == "pairs":
        name = "/".join(loader["columns"].values()) if "columns" in loader else _PAIR_NAMES[loader["type"]]
    return Form(name, loader, kind.dataset, columns=columns)
