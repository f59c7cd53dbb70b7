"""A conversation with an engine: what was said, what the model wants called, figures of each reply. No terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mindformers_glm.errors import DataError, GenerationError, UserError
from mindformers_glm.files import parse_json, read_small, user_path, write_text
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.ticket import Ticket
from mindformers_glm.tokenizers.chat import Renderer
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.messages import offered_tools, read_messages, said_with_calls
from mindformers_glm.tokenizers.reply import Reply, ReplyStream, ToolCall

End = Literal["said", "stopped", "length", "context"]
_RETRY = 7919  # between the seeds of an answer and of its retry
_USUAL_SAMPLING = {"temperature": 0.8, "top_p": 0.8, "top_k": 50}  # those of the official chat


class ContextFull(GenerationError):
    """The conversation leaves no room for a reply. `tokens` it has, `limit` is for it and the reply together."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the conversation has {tokens} tokens and the model's seq_length is {limit}, conversation and reply "
            "together. Type clear to begin anew, ask something shorter, or start with a larger --seq_length"
        )
        self.tokens, self.limit = tokens, limit


class Figures(NamedTuple):
    """Tokens and seconds of one reply. `first_seconds` is None when no token came.

    `end` tells why it is over; `is_kept` is False when the question was taken back with it.
    """

    prompt_tokens: int
    tokens: int
    first_seconds: float | None
    seconds: float
    end: End
    is_kept: bool = True

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token; over the whole time when there is only one."""
        if self.tokens > 1 and self.first_seconds is not None:
            return (self.tokens - 1) / max(self.seconds - self.first_seconds, 1e-9)
        return self.tokens / max(self.seconds, 1e-9)


class Conversation:
    """Asks an engine, keeps what was said, and lets nothing be cut silently.

    `messages` are mappings {role, content} with `tool_calls` where the model calls; `calls` are the calls of the last
    reply that wait for their results, `faults` what in it looked like a call and was none. A model that thinks (GLM-Z1)
    tells `on_thought` the pieces of its thought, which are no part of the reply and of no later prompt.

    Raises:
        GenerationError: `tools` for a model that knows none.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: GLMTokenizer,
        config: GenerationConfig | None = None,
        *,
        system: str | None = None,
        tools: Any = None,
        on_thought: Callable[[str], None] = lambda piece: None,
    ) -> None:
        self.engine, self.tokenizer, self.on_thought = engine, tokenizer, on_thought
        config = config or chat_config(engine)
        self.config = config.ending_also(tokenizer.stop_ids)
        self.system, self.tools = system, tools or None
        self._renderer = Renderer(tokenizer)
        self._names = offered_tools(read_messages([], system=system, tools=self.tools))
        self._ticket: Ticket | None = None
        self.clear()
        self._prompt([{"role": "user", "content": "?"}])

    def clear(self) -> None:
        """Forgets everything but system and tools."""
        self.messages: list[dict[str, Any]] = []
        self.calls: list[ToolCall] = []
        self.faults: list[str] = []
        self.figures: Figures | None = None
        self.retries = 0

    def take_back(self) -> str | None:
        """The last question, which is forgotten with all that followed it; None where nothing was asked.

        With a seed, what is asked next draws other numbers than before.
        """
        last = next((at for at in reversed(range(len(self.messages))) if self.messages[at]["role"] == "user"), None)
        if last is None:
            return None
        question = str(self.messages[last]["content"])
        self.messages, self.calls, self.faults, self.figures = self.messages[:last], [], [], None
        self.retries += 1
        return question

    def ask(self, text: str) -> Iterator[str]:
        """The pieces of the reply as they come. `stop`, or closing the iterator, ends it; what was shown is kept.

        Raises:
            ContextFull: no room is left; the conversation stays as it was.
        """
        return self._reply([{"role": "user", "content": text}])

    def give_results(self, results: Sequence[str]) -> Iterator[str]:
        """The pieces of what the model says after the results of its `calls`, in their order. Otherwise as `ask`."""
        if len(results) != len(self.calls):
            raise GenerationError(f"{len(self.calls)} calls wait for a result, {len(results)} were given")
        return self._reply([{"role": "tool", "content": text} for text in results])

    def stop(self) -> None:
        """Ends the reply that is on its way before its next token; from any thread."""
        if self._ticket is not None:
            self._ticket.cancel()

    def warm_up(self) -> None:
        """Lets the engine compile before the first question; returns when it has."""
        prompt = self._prompt([{"role": "user", "content": "?"}])
        if len(prompt) + 2 <= self.engine.max_length:
            self.engine.submit(prompt, GenerationConfig(max_new_tokens=2)).results()

    def save(self, path: str | Path) -> None:
        """Writes the conversation as a JSON file that training reads, whole or not at all.

        Raises:
            DataError: the place cannot be written.
        """
        opening = [] if self.system is None else [{"role": "system", "content": self.system}]
        conversation: dict[str, Any] = {"messages": [*opening, *self.messages]}
        if self.tools:
            conversation["tools"] = self.tools
        lines = str(path).endswith(".jsonl")
        text = json.dumps(conversation if lines else [conversation], ensure_ascii=False, indent=None if lines else 1)
        try:
            write_text(path, text + "\n")
        except OSError as error:
            raise DataError(str(path), f"cannot be written ({error.strerror})", "Name another file") from error

    # --- replies -----------------------------------------------------------------------------------------------

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        return self._renderer.prompt(messages, system=self.system, tools=self.tools)

    def _reply(self, said: list[dict[str, Any]]) -> Iterator[str]:
        prompt = self._prompt([*self.messages, *said])
        if len(prompt) >= self.engine.max_length:
            raise ContextFull(len(prompt), self.engine.max_length)
        return self._stream(prompt, said)

    def _stream(self, prompt: list[int], said: list[dict[str, Any]]) -> Iterator[str]:
        stream, times, is_whole = ReplyStream(self.tokenizer, tools=self._names), [time.perf_counter()], False
        self._ticket = ticket = self.engine.submit(prompt, self.turn_config(), reuse_prefix=True)
        told = 0
        try:
            for token in ticket:
                times.append(time.perf_counter())
                text = stream.push(token.choice.token)
                told = self._think(stream.reply, told)
                if text:
                    yield text
            if not ticket.is_cancelled:
                text = stream.finish()
                self._think(stream.reply, told)
                if text:
                    yield text
            is_whole = not ticket.is_cancelled
        finally:
            ticket.cancel()
            end = self._end(stream.reply, prompt, len(times) - 1) if is_whole else "stopped"
            first = times[1] - times[0] if len(times) > 1 else None
            seconds = time.perf_counter() - times[0]
            kept = self._keep(said, stream.reply, end)
            self.figures = Figures(len(prompt), len(times) - 1, first, seconds, end, kept)

    def _think(self, reply: Reply, told: int) -> int:
        """Tells what of the thought is new; returns how much of it has been told."""
        if len(reply.reasoning) > told:
            self.on_thought(reply.reasoning[told:])
        return len(reply.reasoning)

    def _end(self, reply: Reply, prompt: list[int], tokens: int) -> End:
        if reply.end is not None:
            return "said"
        return "context" if len(prompt) + tokens >= self.engine.max_length else "length"

    def _keep(self, said: list[dict[str, Any]], reply: Reply, end: End) -> bool:
        """Adds question and reply; a question whose reply was stopped before its first word is taken back (False)."""
        self.faults = reply.faults
        if end == "stopped" and not reply.content:
            return False
        self.calls = list(reply.tool_calls) if end != "stopped" else []
        answer = said_with_calls(reply.content, self.calls, self.tokenizer.rules.call_text, reasoning=reply.reasoning)
        self.messages += [*said, answer]
        return True

    def turn_config(self) -> GenerationConfig:
        """The settings; with a seed every turn draws other numbers, the same ones in every run."""
        if self.config.seed is None:
            return self.config
        return replace(self.config, seed=self.config.seed + len(self.messages) + _RETRY * self.retries)


def chat_config(engine: Engine, **given: Any) -> GenerationConfig:
    """The engine's settings with a reply that may fill the context, and `given` over them.

    Temperature above 0, top_k or top_p turn sampling on, with the values of the official chat for those of the three
    that are not given; temperature 0 turns it off.

    Raises:
        GenerationError: a value that makes no sense.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("temperature") == 0:
        given = {**given, "do_sample": False}
    elif set(given) & set(_USUAL_SAMPLING):
        given = {"do_sample": True, **_USUAL_SAMPLING, **given}
    if "max_new_tokens" not in given:
        given["max_length"] = engine.max_length
    return engine.defaults.updated(**given, num_beams=1, num_return_sequences=1)


def read_tools(path: str | Path) -> list[Any] | dict[str, Any]:
    """The descriptions of tools in a JSON file: a list of them, or one object.

    Raises:
        DataError: no such file, not JSON, or neither list nor object.
    """
    try:
        tools = parse_json(read_small(user_path(path)))
    except UserError as error:
        why = str(error).partition(": ")[2].rstrip(".") or "it cannot be read"
        raise DataError(str(path), f"no tools can be read ({why})", "Name a JSON file with tools") from error
    except ValueError as error:
        raise DataError(str(path), f"not JSON ({error})", "Write a list of tool descriptions") from error
    if not isinstance(tools, (list, dict)) or not tools:
        raise DataError(str(path), "expected a list of tool descriptions", "See docs/chat.md for the form")
    return tools
