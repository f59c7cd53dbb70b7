"""Conversations from files, in the forms that people have them: one loader for each, one row kind for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mindformers_glm.data.forms import TURNS, turns_of
from mindformers_glm.data.loaders import FileLoader, Phase, optional_text, parsed_text, rounds_column, whole_text
from mindformers_glm.data.record import Record
from mindformers_glm.data.tables import without_nulls
from mindformers_glm.errors import ConfigError, kind_of
from mindformers_glm.tokenizers import Message, read_messages

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "observation",
    "tool": "observation",
}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_TAG_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "system_tag": "system",
}
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
_MEANT_NULL = ("default", "const", "example")  # keys of a tool's description whose null says something


class Conversation(NamedTuple):
    """Messages in order and the line of the file they come from."""

    line: int
    messages: list[Message]


class _ConversationLoader(FileLoader):
    """What the loaders of this file share: their rows are conversations."""

    gives = "conversations"


class ConversationDataLoader(_ConversationLoader):
    """`{"conversations": [{"role", "content"}, ...], "tools": [...]}`: ChatGLM3, ToolAlpaca; or `messages`: OpenAI.

    A turn of the role `tool` with `name`, `parameters` and `observation` is a call and its result. `loss` (or
    `weight`) of a message says whether it is learned. A turn {"human", "assistant"} is a round. null means absent.
    """

    reads = frozenset((*TURNS, "system", "tools", "functions"))

    def convert(self, record: Record) -> Conversation:
        """The conversation of a record."""
        value = _mapping(record.value)
        turns = _turns(value)
        filled = any(isinstance(turn, Mapping) and _has_filled_nulls(turn) for turn in turns)
        history = [item for turn in turns for item in _role_turns(turn, filled=filled)]
        tools = _tools(value.get("tools") or value.get("functions"), filled=filled)
        return _checked(record.line, read_messages(history, system=_system(value), tools=tools))


class ShareGPTDataLoader(_ConversationLoader):
    """`{"conversations": [{"from": "human" | "gpt" | ..., "value": ...}], "system": ..., "tools": ...}`.

    `function_call` turns hold JSON with `name` and `arguments`, or a list of such. A reply before the first question
    is left out, as FastChat does. `columns` (messages, system, tools) and `tags` (role_tag, content_tag, user_tag,
    assistant_tag, observation_tag, function_tag, system_tag) give other names, by LLaMA-Factory's words.
    """

    def __init__(
        self,
        dataset_dir: str,
        phase: Phase = "train",
        shuffle: bool | None = None,
        columns: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        num_samples: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        max_bad_ratio: float = 0.5,
    ) -> None:
        for name, given, known in (("columns", columns, ("messages", "system", "tools")), ("tags", tags, _TAGS)):
            unknown = sorted(set(given or {}) - set(known))
            if unknown:
                raise ConfigError(f"data_loader.{name}", ", ".join(unknown), f"Known: {', '.join(known)}.")
        self.columns = {"messages": "", "system": "system", "tools": "tools", **(columns or {})}
        self.tags = {**_TAGS, **(tags or {})}
        self.roles = {**_SHAREGPT_ROLES, **{self.tags[tag]: role for tag, role in _TAG_ROLES.items()}}
        self.reads = frozenset((*TURNS, *self.columns.values()))
        super().__init__(dataset_dir, phase, shuffle, num_samples, num_shards, shard_id, max_bad_ratio)

    def convert(self, record: Record) -> Conversation:
        """The conversation of a record."""
        value, columns = _mapping(record.value), self.columns
        turns = _turns({TURNS[0]: value.get(columns["messages"])} if columns["messages"] else value)
        history = [_sharegpt_turn(turn, self.tags, self.roles) for turn in turns]
        while history and history[0]["role"] == "assistant":
            history.pop(0)
        system, tools = _system(value, columns["system"]), _tools(value.get(columns["tools"]))
        return _checked(record.line, read_messages(history, system=system, tools=tools))


class AlpacaDataLoader(_ConversationLoader):
    """`{"instruction", "input", "output", "system", "history": [[question, reply], ...]}`.

    `columns` gives other names to these, by LLaMA-Factory's words: {prompt: question, response: answer, query: ...,
    system: ..., history: ...}; with `only`, what it does not name is not read, as there.
    """

    def __init__(
        self,
        dataset_dir: str,
        phase: Phase = "train",
        shuffle: bool | None = None,
        columns: dict[str, str] | None = None,
        only: bool = False,
        num_samples: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        max_bad_ratio: float = 0.5,
    ) -> None:
        unknown = sorted(set(columns or {}) - set(_ALPACA))
        if unknown:
            fix = f"Known: {', '.join(_ALPACA)}."
            raise ConfigError("data_loader.columns", ", ".join(unknown), fix)
        usual = dict.fromkeys(_ALPACA, "") if only else _ALPACA
        self.columns = {**usual, **(columns or {})}
        for name in ("prompt", "response"):
            self.columns[name] = self.columns[name] or _ALPACA[name]
        self.reads = frozenset(self.columns.values())
        super().__init__(dataset_dir, phase, shuffle, num_samples, num_shards, shard_id, max_bad_ratio)

    def convert(self, record: Record) -> Conversation:
        """The conversation of a record: past rounds, then instruction and input, then the output."""
        value, names = _mapping(record.value), self.columns
        for name in (names["prompt"], names["response"]):
            if name not in value:
                has = ", ".join(map(str, value))
                raise ValueError(f"needs text under `{names['prompt']}` and `{names['response']}`, has {has}")
        output = optional_text(value, names["response"])
        if not output.strip():
            raise ValueError(f"`{names['response']}` is blank")
        query = "\n".join(part for part in (optional_text(value, names[key]) for key in ("prompt", "query")) if part)
        if not query.strip():
            raise ValueError(f"`{names['prompt']}` is blank")
        history = [*rounds_column(value, names["history"]), (query, output)]
        return _checked(record.line, read_messages(history, system=_system(value, names["system"])))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"not an object but {kind_of(value)}")
    return value


def _turns(value: Mapping[str, Any]) -> list[Any]:
    found = turns_of(value)
    if found is None:
        raise ValueError(f"no list of `conversations` or `messages` among {', '.join(map(str, value))}")
    return found[1]


def _system(value: Mapping[str, Any], name: str = "system") -> str | None:
    return optional_text(value, name) or None


def _tools(tools: Any, *, filled: bool = False) -> Any:
    """Descriptions of tools; some files keep them as JSON in a string."""
    tools = parsed_text(tools, "tools")
    if not tools:
        return None
    if not isinstance(tools, (list, Mapping)):
        raise ValueError(f"`tools` is not a list of descriptions but {kind_of(tools)}")
    return without_nulls(tools) if filled else _without_null_schemas(tools)


def _without_null_schemas(value: Any, inside: bool = False) -> Any:
    """Descriptions without parameters that have none: a table gives every tool the parameters of all."""
    if isinstance(value, list):
        return [_without_null_schemas(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without_null_schemas(item, key in ("parameters", "properties"))
        for key, item in value.items()
        if not (inside and item is None and key not in _MEANT_NULL)
    }


def _has_filled_nulls(turn: Mapping[str, Any]) -> bool:
    """Whether a table wrote this turn: it has keys without a value that nobody would write."""
    return any(value is None for key, value in turn.items() if key != "content")


def _role_turns(turn: Any, *, filled: bool) -> list[dict[str, Any]]:
    """The turn as `read_messages` wants it: without empty keys, its parts of the right kind."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn is not an object but {kind_of(turn)}")
    plain = {key: without_nulls(value) if filled else value for key, value in turn.items() if value is not None}
    if "role" not in plain and {"human", "assistant"} <= plain.keys():
        sides = (("user", plain["human"]), ("assistant", plain["assistant"]))
        return [{"role": role, "content": _said(text)} for role, text in sides]
    if not isinstance(plain.get("role"), str):
        raise ValueError(f"a turn needs text under `role`, has {', '.join(map(str, turn))}")
    if "content" in plain:
        plain["content"] = _said(plain["content"])
    for name, kind in (("tool_calls", list), ("function_call", Mapping), ("name", str), ("metadata", str)):
        if name in plain and not isinstance(plain[name], kind):
            raise ValueError(f"`{name}` of a turn is {kind_of(plain[name])}")
    for name in ("loss", "weight"):
        if not isinstance(plain.get(name, 0), (bool, int, float)):
            raise ValueError(f"`{name}` of a turn is neither true nor false but {plain[name]!r}")
    if "tools" in plain and plain["role"] == "system":
        plain["tools"] = _inner_tools(plain["tools"], filled=filled)
    return [plain]


def _inner_tools(tools: Any, *, filled: bool) -> Any:
    """`tools` of a system message: a text stays as it is, the renderer knows what to do with it."""
    if isinstance(tools, str) or not tools:
        return tools
    return _tools(tools, filled=filled)


def _said(content: Any) -> Any:
    if isinstance(content, str):
        return whole_text(content, "content")
    if not isinstance(content, list):
        raise ValueError(f"`content` of a turn is not text but {kind_of(content)}")
    return content


def _sharegpt_turn(turn: Any, tags: Mapping[str, str], roles: Mapping[str, str]) -> dict[str, Any]:
    said = turn.get(tags["content_tag"]) if isinstance(turn, Mapping) else None
    if not isinstance(said, str):
        raise ValueError(f"every turn needs `{tags['role_tag']}` and a text under `{tags['content_tag']}`")
    speaker, said = turn.get(tags["role_tag"]), whole_text(said, tags["content_tag"])
    loss = turn.get("loss") if turn.get("loss") is not None else turn.get("weight")
    if speaker in ("function_call", tags["function_tag"]):
        calls = parsed_text(said, "function_call")
        calls = calls if isinstance(calls, list) else [calls]
        if not all(isinstance(call, Mapping) for call in calls):
            raise ValueError("a function_call is not JSON with name and arguments")
        return {"role": "assistant", "tool_calls": [{"function": call} for call in calls], "loss": loss}
    role = roles.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise ValueError(f"unknown speaker {speaker!r}; known: {', '.join(roles)}, {tags['function_tag']}")
    return {"role": role, "content": said, "loss": loss}


def _checked(line: int, messages: list[Message]) -> Conversation:
    replies = [message for message in messages if message.role == "assistant"]
    if not replies:
        raise ValueError("no reply of the assistant, nothing to learn")
    for number, reply in enumerate(replies, 1):
        if not reply.content.strip() and reply.loss is not False:
            raise ValueError(f"reply {number} of the assistant is blank")
    return Conversation(line, messages)
