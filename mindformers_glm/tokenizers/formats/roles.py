r"""ChatGLM3, and the ground of what came after: each message by itself, role id, metadata and newline, content.

    [gMASK] sop <|user|> \n q1 <|assistant|> {\n a1 <|user|>} \n q2 <|assistant|> {\n a2 E}

Learned tokens stand in braces, E is eos. The token that ends a reply (the next role, or eos) is learned: it is how the
model stops. The role that opens a reply is not: the prompt ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers.formats.base import ChatFormat, Rendered
from mindformers_glm.tokenizers.messages import NULL, Message

Marked = list[tuple[Message, bool]]  # messages, and which of them are learned


class Roles(ChatFormat):
    """The chat format of ChatGLM3."""

    has_roles = True
    opens_with_line = True

    def check(self, messages: list[Message]) -> None:
        """Raises GenerationError when tools cannot be printed."""
        for message, _ in self.arranged([(message, False) for message in messages]):
            self.content(message)

    def said(self, messages: list[Message]) -> list[int]:
        """See ChatFormat."""
        ids = self.prefix()
        for message, _ in self.arranged([(message, False) for message in messages]):
            ids += self.message(message)
        return ids

    def prompt(self, messages: list[Message]) -> list[int]:
        """See ChatFormat."""
        return [*self.said(messages), *self.opening()]

    def example(self, messages: list[Message], learned: Sequence[bool]) -> Rendered:
        """See ChatFormat."""
        ids = self.prefix()
        targets = [False] * len(ids)
        before = False  # whether the previous message is learned, and so the token that ends it
        marked = self.arranged(list(zip(messages, learned, strict=True)), learning=True)
        for message, learn in marked:
            own, given = self.message(message), self.given(message)
            ids += own
            targets += [before, *[False] * (given - 1), *[learn] * (len(own) - given)]
            before = learn
        if marked and marked[-1][0].role == "assistant":
            ids.append(self.end_id)
            targets.append(before)
        labels = [token if target else IGNORED for token, target in zip(ids, targets, strict=True)]
        return Rendered(ids, [*labels[1:], IGNORED])

    # --- the rules ---------------------------------------------------------------------------------------------

    def prefix(self) -> list[int]:
        """What opens every conversation."""
        return self.tokenizer.get_prefix_tokens()

    def opening(self) -> list[int]:
        """What a prompt ends with."""
        return [self.tokenizer.get_command("<|assistant|>")]

    def given(self, message: Message) -> int:
        """How many ids of a message stand there before the model writes: the role."""
        return 1

    def arranged(self, marked: Marked, *, learning: bool = False) -> Marked:
        """The messages as they are written: in order here, other formats move or drop some."""
        return marked

    def message(self, message: Message) -> list[int]:
        """Ids of one message."""
        return self.tokenizer.build_single_message(message.role, message.metadata, self.content(message))

    def content(self, message: Message) -> str:
        """Its text, the tools of a system message included."""
        if message.tools is None:
            return self.body(message)
        tools = None if message.tools is NULL else message.tools
        return f"{message.content}\n{self.printed(tools, self.indent)}"

    @property
    def end_id(self) -> int:
        """What is learned to end a conversation."""
        return self.tokenizer.eos_token_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """eos, and the roles that only others speak: user and observation."""
        names = ("<|user|>", "<|observation|>")
        return (self.tokenizer.eos_token_id, *(self.tokenizer.get_command(name) for name in names))

    def ends(self) -> dict[int, str]:
        """See ChatFormat."""
        names = {"<|user|>": "user", "<|observation|>": "observation", "<|system|>": "role"}
        return {**super().ends(), **{self.tokenizer.get_command(name): why for name, why in names.items()}}
