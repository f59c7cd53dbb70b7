"""ChatGLM2 and ChatGLM3 tokenizers: sentencepiece text, special tokens as ids only.

Ids agree with the official tokenizers (THUDM/chatglm2-6b and chatglm3-6b, tokenization_chatglm.py). The literal
text "[gMASK]" or "<|user|>" is encoded as ordinary characters, so that a message cannot forge a role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers import files
from mindformers_glm.tokenizers.encoding import Encoding
from mindformers_glm.tokenizers.glm import GLM2_SPECIALS, GLMTokenizer

History = Sequence[Any]  # pairs (query, reply) or messages {role, content, ...}
GLM3_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


@TOKENIZERS.register()
class ChatGLM2Tokenizer(GLMTokenizer):
    """ChatGLM2: five special tokens; prompts are text, "[Round 1] ...", see `build_prompt`."""

    def build_prompt(self, query: str, history: History | None = None) -> str:
        """The prompt text of a query after past rounds, ready for `encode`.

        `history` holds pairs (query, reply) or messages of the roles user and assistant.
        """
        rounds = [*_rounds(history or []), (query, None)]
        return "".join(round_text(index, *item) for index, item in enumerate(rounds, 1))

    def build_inputs(self, query: str, history: History | None = None) -> Encoding:
        """`input_ids` (1, T) of the prompt."""
        return self([self.build_prompt(query, history)], return_tensors="np")


@TOKENIZERS.register()
class ChatGLM3Tokenizer(GLMTokenizer):
    """ChatGLM3: four role tokens more; a message is role id, then its metadata and content encoded apart."""

    generation = 3
    specials = GLM2_SPECIALS + GLM3_ROLES
    prints_specials = True
    gives_positions = True

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """eos, and the roles that only others speak: user and observation."""
        return (self.eos_token_id, self.get_command("<|user|>"), self.get_command("<|observation|>"))

    def build_single_message(self, role: str, metadata: str | None, message: str) -> list[int]:
        """Ids of one message: role, metadata and newline, content.

        Raises:
            ConfigError: the role is not system, user, assistant or observation.
        """
        name = f"<|{role}|>"
        if name not in GLM3_ROLES:
            raise ConfigError("role", role, "Use system, user, assistant or observation.")
        head = self.vocabulary.encode(f"{metadata or ''}\n")
        return [self.vocabulary.special_ids[name], *head, *self.vocabulary.encode(message)]

    def build_chat_ids(self, query: str | None, history: History | None = None, role: str = "user") -> list[int]:
        """Ids of a whole conversation that waits for the assistant's answer."""
        items = _messages(history or [])
        if query is not None:
            items.append({"role": role, "content": query})
        ids = self.get_prefix_tokens()
        for item in items:
            content = item.get("content") or ""
            if item["role"] == "system" and item.get("tools"):
                content += "\n" + json.dumps(item["tools"], indent=4, ensure_ascii=False)
            ids += self.build_single_message(item["role"], item.get("metadata"), content)
        return [*ids, self.get_command("<|assistant|>")]

    def build_chat_input(
        self, query: str | None, history: History | None = None, role: str = "user", return_tensors: str = "np"
    ) -> Encoding:
        """`input_ids`, `attention_mask`, `position_ids` (1, T) of a conversation that waits for an answer."""
        return self.build_batch_input([query], [history or []], role, return_tensors=return_tensors)

    def build_batch_input(
        self,
        queries: Sequence[str | None],
        histories: Sequence[History] | None = None,
        roles: str | Sequence[str] = "user",
        padding: bool | str = True,
        return_tensors: str = "np",
    ) -> Encoding:
        """The same for several conversations, rows (B, T) padded to the longest.

        Raises:
            ConfigError: queries, histories and roles are not equally many.
        """
        histories = [[] for _ in queries] if histories is None else list(histories)
        roles = [roles] * len(queries) if isinstance(roles, str) else list(roles)
        if not len(queries) == len(histories) == len(roles):
            raise ConfigError("histories", len(histories), f"Give one history and one role for each of {len(queries)}.")
        rows = [self.build_chat_ids(*item) for item in zip(queries, histories, roles, strict=True)]
        encoded = {"input_ids": rows, "position_ids": [list(range(len(row))) for row in rows]}
        return self.pad(encoded, padding=padding, return_tensors=return_tensors)


def round_text(index: int, query: str, reply: str | None) -> str:
    """Text of one round of ChatGLM2, open for the reply when there is none yet."""
    head = f"[Round {index}]\n\n问：{query}\n\n答："
    return head if reply is None else f"{head}{reply}\n\n"


def check_fits(tokenizer: GLMTokenizer, padded_vocab_size: int) -> None:
    """Passes when every id of the tokenizer has a row in the model's embedding.

    Raises:
        ConfigError: the tokenizer is larger than the model's vocabulary.
    """
    if tokenizer.vocab_size > padded_vocab_size:
        fix = (
            f"The tokenizer {tokenizer.vocab_file} has {tokenizer.vocab_size} ids; raise padded_vocab_size to at "
            "least that, or use the tokenizer that belongs to this model."
        )
        raise ConfigError("model.model_config.padded_vocab_size", padded_vocab_size, fix)


def tokenizer_from(path: str | Path) -> GLMTokenizer:
    """The tokenizer of a folder, of the class that its tokenizer_config.json names or lets conclude.

    Hugging Face folders of both generations name the same class; ChatGLM3 is told by its name or chat template.

    Raises:
        DataError: no vocabulary there.
        ConfigError: the folder belongs to another tokenizer.
    """
    _, config = files.load(Path(path))
    name = config.get("tokenizer_class", "ChatGLM2Tokenizer")
    if name == "ChatGLMTokenizer":
        third = "glm3" in str(config.get("name_or_path", "")).lower() or "chat_template" in config
        name = "ChatGLM3Tokenizer" if third else "ChatGLM2Tokenizer"
    kind = TOKENIZERS.get(name, "tokenizer_class")
    return kind.from_pretrained(path)


def _rounds(history: History) -> list[tuple[str, str]]:
    """Past rounds as pairs, from pairs or from alternating messages."""
    if history and isinstance(history[0], Mapping):
        users = [item["content"] for item in history if item["role"] == "user"]
        replies = [item["content"] for item in history if item["role"] == "assistant"]
        if len(users) != len(replies) or len(users) + len(replies) != len(history):
            raise ConfigError("history", [item["role"] for item in history], "Use user and assistant in turn.")
        return list(zip(users, replies, strict=True))
    return [(query, reply) for query, reply in history]


def _messages(history: History) -> list[dict[str, Any]]:
    """Past messages as dictionaries, from messages or from pairs."""
    messages: list[dict[str, Any]] = []
    for item in history:
        if isinstance(item, Mapping):
            messages.append(dict(item))
        else:
            query, reply = item
            messages += [{"role": "user", "content": query}, {"role": "assistant", "content": reply}]
    return messages
