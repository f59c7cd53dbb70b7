"""A model's own chat template (Jinja, as transformers applies it) beside the chat format that writes its prompts here.

Prompts never come from a template: text of a user could become a role there, and a newline could join across the
border of two messages. A template is rendered to be compared, in Jinja's sandbox, without files or network; what it
writes is bounded, the time it takes is not.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mindformers_glm.errors import DataError, GenerationError
from mindformers_glm.files import parse_json, read_small, user_path
from mindformers_glm.tokenizers import files
from mindformers_glm.tokenizers.chat import Renderer
from mindformers_glm.tokenizers.glm import GLMTokenizer

FILE = "chat_template.jinja"
_LARGEST = 1 << 20
_AROUND = 24  # characters that are shown of each text where they part
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询城市的天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SUM = {"type": "function", "function": {"name": "sum", "description": "a + b < c", "parameters": {"type": "object"}}}
Verdict = Literal["same", "different", "unknown here", "refused there"]


class Talk(NamedTuple):
    """A conversation to be written in both ways."""

    name: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None


class Compared(NamedTuple):
    """One conversation: `ours` and `theirs` are the texts, `why` says where they part or who refuses."""

    talk: Talk
    verdict: Verdict
    ours: str = ""
    theirs: str = ""
    why: str = ""


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str, **more: str) -> dict[str, str]:
    return {"role": "assistant", "content": text, **more}


_SYSTEM = {"role": "system", "content": "只用中文回答。"}
_CALL = (_user("北京天气"), _assistant('{"city": "北京"}', metadata="get_weather"))
TALKS = (
    Talk("a question", [_user("你好")]),
    Talk("a system prompt", [_SYSTEM, _user("hi")]),
    Talk("several rounds", [_user("你好"), _assistant("你好！\n有什么事？"), _user("讲个笑话")]),
    Talk("a system prompt in the middle", [_user("hi"), _SYSTEM, _user("ok")]),
    Talk("white space at both ends", [_user("\n 写诗 \n"), _assistant("\n\n诗 "), _user("  再写")]),
    Talk("an empty question", [_user("")]),
    Talk("a thought in the past", [_user("1+1"), _assistant("<think>\n想\n</think>\n\n2"), _user("2+2")]),
    Talk("code", [_user("写快排"), _assistant("```python\ndef f(a):\n    return a < 1\n```"), _user("解释")]),
    Talk("one tool", [_user("北京天气")], [_WEATHER]),
    Talk("two tools and a system prompt", [_SYSTEM, _user("1+1")], [_WEATHER, _SUM]),
    Talk("a call and its result", [*_CALL, {"role": "observation", "content": "晴，31 度"}], [_WEATHER]),
    Talk(
        "a call, its result, an answer and a question",
        [*_CALL, {"role": "observation", "content": "晴"}, _assistant("晴天。"), _user("谢谢")],
        [_WEATHER],
    ),
)


def read_template(path: str | Path) -> str:
    """The template of a folder (chat_template.jinja, chat_template.json, or in tokenizer_config.json) or of a file.

    Raises:
        DataError: there is none, or it is too long.
    """
    path = user_path(path)
    places = [path / FILE, path / "chat_template.json", path / files.SETTINGS] if path.is_dir() else [path]
    for place in places:
        if not place.is_file():
            continue
        text = read_small(place, limit=_LARGEST * 8).decode("utf-8", "replace")
        if place.suffix == ".json":
            text = _inside(text, place)
        if len(text) > _LARGEST:
            raise DataError(str(place), f"a template of {len(text):,} characters", "Is it a chat template?")
        if text:
            return text
    fix = f"Give a folder with {FILE}, or with a tokenizer_config.json that has chat_template"
    raise DataError(str(path), "no chat template there", fix)


def read_talks(path: str | Path) -> list[Talk]:
    """Conversations of a JSON file: a list of {"messages": [...], "tools": [...]}.

    Raises:
        DataError: it is another file.
    """
    try:
        given = parse_json(read_small(user_path(path)))
    except ValueError as error:
        raise DataError(str(path), f"not JSON ({error})", "See docs/chat.md for the form") from error
    rows = given if isinstance(given, list) else [given]
    if not rows or not all(isinstance(row, dict) and isinstance(row.get("messages"), list) for row in rows):
        raise DataError(str(path), "expected a list of objects with `messages`", "See docs/chat.md for the form")
    return [Talk(f"conversation {place}", row["messages"], row.get("tools")) for place, row in enumerate(rows, 1)]


class Template:
    """A chat template, compiled in Jinja's sandbox.

    Raises:
        DataError: Jinja is not installed, or the text is no template.
    """

    def __init__(self, text: str, *, place: str = "chat template") -> None:
        try:
            from jinja2 import TemplateError, meta  # noqa: PLC0415 - an extra, needed here alone
            from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
        except ImportError as error:
            fix = "Install it: pip install 'mindformers_glm[template]'"
            raise DataError(place, "reading a chat template needs Jinja2", fix) from error
        self.place, self._error = place, TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = self._refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._takes_tools = "tools" in meta.find_undeclared_variables(environment.parse(text))
            self._template = environment.from_string(text)
        except TemplateError as error:
            raise DataError(place, f"no Jinja template ({error})", "Copy it again") from error

    def text(self, talk: Talk, *, open_reply: bool = True) -> str:
        """The text of a conversation, as transformers' apply_chat_template gives it.

        Tools are a variable, or stand in a system message of their own where the template asks for no such variable.

        Raises:
            GenerationError: the template refuses the conversation, or fails.
        """
        messages, tools = [dict(message) for message in talk.messages], list(talk.tools or []) or None
        if tools and not self._takes_tools:
            messages.insert(0, {"role": "system", "content": "", "tools": tools})
        given = {"messages": messages, "tools": tools, "add_generation_prompt": open_reply}
        try:
            pieces = self._template.generate(**given, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
            text = ""
            for piece in pieces:
                text += piece
                if len(text) > _LARGEST:
                    raise GenerationError(f"{self.place}: it writes more than {_LARGEST:,} characters")
            return text
        except (self._error, TypeError, ValueError, KeyError, ArithmeticError, RecursionError, MemoryError) as error:
            raise GenerationError(f"{self.place}: {error}") from error

    def _refuse(self, message: str) -> None:
        raise self._error(message)


def compare(tokenizer: GLMTokenizer, template: Template, talks: Sequence[Talk] = TALKS) -> Iterator[Compared]:
    """What each conversation is in the tokenizer's chat format and in the template.

    Where the vocabulary is of sentencepiece, whose ids do not keep white space, the texts are compared without it.
    """
    renderer, shown = Renderer(tokenizer), _squeezed if is_loose(tokenizer) else str
    for talk in talks:
        try:
            ours = shown(renderer.text(renderer.prompt(talk.messages, tools=talk.tools)))
        except GenerationError as error:
            yield Compared(talk, "unknown here", why=str(error))
            continue
        try:
            theirs = shown(template.text(talk))
        except GenerationError as error:
            yield Compared(talk, "refused there", ours, why=str(error))
            continue
        verdict: Verdict = "same" if ours == theirs else "different"
        yield Compared(talk, verdict, ours, theirs, "" if ours == theirs else _where(ours, theirs))


def is_loose(tokenizer: GLMTokenizer) -> bool:
    """True for a tokenizer whose ids do not keep white space."""
    return files.kind(Path(tokenizer.vocab_file)) == "sentencepiece"


def _squeezed(text: str) -> str:
    return "".join(text.replace("<sop>", "sop").split())


def _where(ours: str, theirs: str) -> str:
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    begin = max(place - _AROUND // 2, 0)
    shown = [json.dumps(text[begin : place + _AROUND], ensure_ascii=False) for text in (ours, theirs)]
    return f"at character {place}: {shown[0]} here, {shown[1]} in the template"


def _tojson(value: Any, indent: int | None = None, **more: Any) -> str:
    """JSON without HTML's escapes, as transformers has this filter."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _inside(text: str, place: Path) -> str:
    """The template in a JSON file: text, or the one that is called `default` in a list of several."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(str(place), f"not JSON ({error})", "Copy it again") from error
    found = given.get("chat_template") if isinstance(given, dict) else None
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""
