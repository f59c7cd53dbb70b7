"""A chat in the terminal, or from a pipe: reads questions, shows answers as they grow, stops them on Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mindformers_glm.errors import UserError
from mindformers_glm.files import user_path
from mindformers_glm.serving.conversation import ContextFull, Conversation, Figures
from mindformers_glm.serving.interrupt import allowed, watched
from mindformers_glm.serving.phrases import CHINESE, Phrases
from mindformers_glm.serving.typed import BOM, Command, Lines, Typed


class Console(Protocol):
    """Where questions come from and answers go. `is_interactive` is False for a pipe or file."""

    is_interactive: bool

    def read(self, prompt: str) -> str:
        """A line without its end. Raises EOFError at the end of input, KeyboardInterrupt on Ctrl-C."""

    def write(self, text: str) -> None:
        """Shows text at once."""


class StandardConsole:
    """Standard input and output. Only a terminal is shown prompts, and has line editing where readline exists."""

    def __init__(self) -> None:
        for stream in (sys.stdin, sys.stdout):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        self.is_interactive = sys.stdin.isatty()
        if self.is_interactive:
            with contextlib.suppress(ImportError):  # not on every system
                import readline  # noqa: F401, PLC0415 - changes what input() does

    def read(self, prompt: str) -> str:
        """A line without its end."""
        with allowed():
            if self.is_interactive:
                return input(prompt).removeprefix(BOM)
            line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n").removeprefix(BOM)

    def write(self, text: str) -> None:
        """Shows text at once."""
        sys.stdout.write(text)
        sys.stdout.flush()


class TerminalChat:
    """Questions and answers until `stop`, the end of input, or Ctrl-C twice at the prompt."""

    def __init__(
        self,
        conversation: Conversation,
        console: Console,
        *,
        phrases: Phrases = CHINESE,
        model: str = "",
        shows_figures: bool = False,
    ) -> None:
        self.conversation, self.console, self.phrases = conversation, console, phrases
        self.model, self.shows_figures = model, shows_figures
        self._own_files: set[Path] = set()
        self._thinks = False  # a thought is on the screen, and its line not ended
        conversation.on_thought = self._show_thought

    def run(self) -> None:
        """Talks.

        Raises:
            UserError: with input from a pipe, a question that cannot be answered; a user at a terminal is told, and
                the chat goes on.
            KeyboardInterrupt: Ctrl-C stopped an answer to a pipe.
        """
        if self.console.is_interactive:
            self._note(self.phrases.welcome.format(model=self.model))
            self.conversation.warm_up()
        while (typed := self._next(self.phrases.question)) is not None:
            command = typed.command
            if command is not None and command.name == "stop":
                return
            try:
                if command is not None:
                    self._obey(command)
                elif typed.text.strip() and not self._converse(typed.text):
                    return
            except UserError as error:
                if not self.console.is_interactive:
                    raise
                self._note(self._told(error))

    # --- input -------------------------------------------------------------------------------------------------

    def _next(self, prompt: str, *, is_result: bool = False) -> Typed | None:
        """The next message or command, None at the end. Ctrl-C gives up a result, and so raises KeyboardInterrupt."""
        lines, was_interrupted = Lines(), False
        while True:
            try:
                typed = lines.push(self.console.read(self.phrases.more if lines.is_open else prompt))
            except EOFError:
                self.console.write("\n" if self.console.is_interactive else "")
                return None if self.console.is_interactive else lines.flush()
            except KeyboardInterrupt:
                if is_result:
                    raise
                if was_interrupted or not self.console.is_interactive:
                    self.console.write("\n")
                    return None
                was_interrupted = True
                lines.drop()
                self._note("\n" + self.phrases.leaving)
                continue
            was_interrupted = False
            if typed is not None:
                return typed

    def _obey(self, command: Command) -> None:
        if command.name == "clear":
            self.conversation.clear()
            self._note(self.phrases.cleared)
            return
        path = user_path(command.file)
        if path.exists() and path.resolve() not in self._own_files:
            self._note(self.phrases.exists.format(file=path))
            return
        self.conversation.save(path)
        self._own_files.add(path.resolve())
        self._note(self.phrases.saved.format(file=path))

    # --- output ------------------------------------------------------------------------------------------------

    def _converse(self, text: str) -> bool:
        """Shows the answer, and asks for the results of calls until none is left. False when the user ends."""
        self._show(self.conversation.ask(text))
        while self.conversation.calls:
            try:
                results = self._results()
            except KeyboardInterrupt:
                self.conversation.calls = []
                self._note("\n" + self.phrases.no_result)
                return True
            if results is None:
                return False
            if results:
                self._show(self.conversation.give_results(results))
        return True

    def _results(self) -> list[str] | None:
        """A result for each call; none when a command came in between; None when the user ends."""
        results: list[str] = []
        for call in self.conversation.calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            self._note(self.phrases.call.format(name=call.name, arguments=arguments))
            typed = self._next(self.phrases.observation.format(name=call.name), is_result=True)
            if typed is None or typed.command == Command("stop"):
                return None
            if typed.command is not None:
                self._obey(typed.command)
                return []
            results.append(typed.text)
        return results

    def _show(self, pieces: Iterator[str]) -> None:
        thinks = self.conversation.tokenizer.rules.thinks
        if not thinks:
            self.console.write(self.phrases.answer)
        self._thinks, begun = False, not thinks
        with watched(self.conversation.stop):
            for piece in pieces:
                if not begun:
                    self._end_thought()
                    self.console.write(self.phrases.answer)
                    begun = True
                self.console.write(piece)
        self._end_thought()
        self.console.write("\n" if begun else "")
        figures = self.conversation.figures
        for fault in self.conversation.faults:
            self._note(self.phrases.fault.format(fault=fault))
        if figures is None:
            return
        if figures.end == "stopped" and not self.console.is_interactive:
            raise KeyboardInterrupt
        if figures.end != "said":
            self._note(self._why(figures))
        if self.shows_figures:
            self._note(figures_line(figures, self.conversation.engine.max_length))

    def _show_thought(self, piece: str) -> None:
        """Apart from the answer: before it on a terminal, on the error output beside a pipe."""
        piece = piece if self._thinks else self.phrases.thought + piece
        self._thinks = True
        if self.console.is_interactive:
            self.console.write(piece)
        else:
            print(piece, end="", file=sys.stderr, flush=True)

    def _end_thought(self) -> None:
        if self._thinks:
            self._note("")
        self._thinks = False

    def _why(self, figures: Figures) -> str:
        if figures.end == "stopped":
            return self.phrases.stopped if figures.is_kept else self.phrases.taken_back
        if figures.end == "context":
            return self.phrases.context.format(limit=self.conversation.engine.max_length)
        return self.phrases.length

    def _told(self, error: UserError) -> str:
        if isinstance(error, ContextFull):
            return self.phrases.full.format(tokens=error.tokens, limit=error.limit)
        return str(error)

    def _note(self, text: str) -> None:
        """What is no answer: on the screen of a terminal, on the error output beside a pipe."""
        if self.console.is_interactive:
            self.console.write(text + "\n")
        else:
            print(text, file=sys.stderr)


def figures_line(figures: Figures, limit: int) -> str:
    """`[prompt 20 tokens, first token after 0.12 s, 35 tokens, 41.3 tokens/s, context 55 of 512]`."""
    first = "no token" if figures.first_seconds is None else f"first token after {figures.first_seconds:.2f} s"
    used = figures.prompt_tokens + figures.tokens
    return (
        f"[prompt {figures.prompt_tokens} tokens, {first}, {figures.tokens} tokens, "
        f"{figures.tokens_per_second:.1f} tokens/s, context {used} of {limit}]"
    )
