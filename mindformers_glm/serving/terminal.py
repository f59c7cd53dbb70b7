"""A chat in the terminal, or from a pipe: reads questions, shows answers as they grow, stops them on Ctrl-C."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from mindformers_glm.errors import UserError
from mindformers_glm.files import user_path
from mindformers_glm.serving.console import Console, StandardConsole
from mindformers_glm.serving.conversation import ContextFull, Conversation, Figures
from mindformers_glm.serving.interrupt import watched
from mindformers_glm.serving.phrases import CHINESE, ENGLISH, Phrases
from mindformers_glm.serving.rendering import Rendering
from mindformers_glm.serving.typed import Command, Lines, Typed

__all__ = ["StandardConsole", "TerminalChat", "figures_line"]


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
        markdown: bool = False,
    ) -> None:
        self.conversation, self.console, self.phrases = conversation, console, phrases
        self.model, self.shows_figures = model, shows_figures
        paints = getattr(console, "paints", False)
        self._rendering = Rendering(markdown=markdown) if paints else None
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
                    if not self._obey(command):
                        return
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

    def _obey(self, command: Command) -> bool:
        """Carries a command out. False when the user ends the chat in it."""
        if command.name in ("retry", "edit"):
            return self._ask_again(command)
        if command.name == "clear":
            self.conversation.clear()
            self._note(self.phrases.cleared)
        elif command.name == "help":
            self._note(self.phrases.help)
        elif command.name == "stats":
            self.shows_figures = not self.shows_figures
            self._note(self.phrases.shows_figures if self.shows_figures else self.phrases.hides_figures)
        else:
            self._save(command)
        return True

    def _ask_again(self, command: Command) -> bool:
        """The last question once more, as it was or changed; the one before stays where no new one is given."""
        said = [message for message in self.conversation.messages if message["role"] == "user"]
        if not said:
            self._note(self.phrases.nothing)
            return True
        text: str | None = command.text or str(said[-1]["content"])
        if command.name == "edit" and not command.text:
            edit = getattr(self.console, "edit", lambda prompt, text: None)
            try:
                text = edit(self.phrases.edit, text)
            except (EOFError, KeyboardInterrupt):
                self.console.write("\n")
                return True
            if text is None:
                self._note(self.phrases.cannot_edit)
                return True
        elif command.name == "retry" and not self.conversation.config.do_sample:
            self._note(self.phrases.same)
        if text is None or not text.strip():
            return True
        self.conversation.take_back()
        return self._converse(text)

    def _save(self, command: Command) -> None:
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
                return [] if self._obey(typed.command) else None
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
                self.console.write(piece if self._rendering is None else self._rendering.push(piece))
        if self._rendering is not None:
            self.console.write(self._rendering.finish())
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
            phrases = self.phrases if self.console.is_interactive else ENGLISH  # beside a pipe programs read it
            self._note(figures_line(figures, self.conversation.engine.max_length, phrases))

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
        return error.line()

    def _note(self, text: str) -> None:
        """What is no answer: on the screen of a terminal, on the error output beside a pipe."""
        if self.console.is_interactive:
            self.console.write(text + "\n")
        else:
            print(text, file=sys.stderr)


def figures_line(figures: Figures, limit: int, phrases: Phrases = ENGLISH) -> str:
    """`[prompt 20 tokens, first token after 0.12 s, 35 tokens, 41.3 tokens/s, context 55 of 512]`."""
    seconds = figures.first_seconds
    return phrases.figures.format(
        prompt=figures.prompt_tokens,
        first=phrases.no_token if seconds is None else phrases.first.format(seconds=seconds),
        tokens=figures.tokens,
        speed=figures.tokens_per_second,
        used=figures.prompt_tokens + figures.tokens,
        limit=limit,
    )
