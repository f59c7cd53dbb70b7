"""ChatGLM2 and ChatGLM3 tokenizers: sentencepiece text, special tokens as ids only.

Ids agree with the official tokenizers (THUDM/chatglm2-6b and chatglm3-6b, tokenization_chatglm.py). The literal
text "[gMASK]" or "<|user|>" is encoded as ordinary characters, so that a message cannot forge a role.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers.chat import Renderer
from mindformers_glm.tokenizers.encoding import Encoding
from mindformers_glm.tokenizers.formats.rounds import prompt_text
from mindformers_glm.tokenizers.glm import GLM2_SPECIALS, GLMTokenizer
from mindformers_glm.tokenizers.messages import read_messages

History = Sequence[Any]  # pairs (query, reply) or messages {role, content, ...}
UNUSED_IDS = 1024  # how many rows of an embedding may lie beyond the last id of its tokenizer
GLM3_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


@TOKENIZERS.register()
class ChatGLM2Tokenizer(GLMTokenizer):
    """ChatGLM2: five special tokens; prompts are text, "[Round 1] ...", see `build_prompt`."""

    def build_prompt(self, query: str, history: History | None = None) -> str:
        """The prompt text of a query after past rounds, ready for `encode`.

        `history` holds pairs (query, reply) or messages of the roles user and assistant.

        Raises:
            GenerationError: the history is no sequence of rounds.
        """
        return prompt_text(read_messages(history or [], query))

    def build_inputs(self, query: str, history: History | None = None) -> Encoding:
        """`input_ids` (1, T) of the prompt."""
        return self([self.build_prompt(query, history)], return_tensors="np")


class RoleTokenizer(GLMTokenizer):
    """A tokenizer with role tokens: a message is role id, then its metadata and content encoded apart."""

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
        return Renderer(self).prompt(history or [], query, role=role)

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


@TOKENIZERS.register()
class ChatGLM3Tokenizer(RoleTokenizer):
    """ChatGLM3: four role tokens more."""

    chat_format = "roles"
    specials = GLM2_SPECIALS + GLM3_ROLES
    prints_specials = True
    gives_positions = True


def belongs(vocab_size: int, padded_vocab_size: int) -> bool:
    """Whether so many ids are those of an embedding of so many rows: every id has one, and few rows are left over."""
    return vocab_size <= padded_vocab_size <= vocab_size + UNUSED_IDS


def check_fits(tokenizer: GLMTokenizer, padded_vocab_size: int) -> None:
    """Passes when every id of the tokenizer has a row in the model's embedding, and few rows are left over.

    Raises:
        ConfigError: the tokenizer is larger than the model's vocabulary, or far smaller: that of another model.
    """
    size = tokenizer.vocab_size
    if not belongs(size, padded_vocab_size):
        fix = (
            f"The tokenizer {tokenizer.vocab_file} has {size} ids: use the tokenizer that belongs to this model, or, "
            f"to train another from scratch, set padded_vocab_size to {-(-size // 64) * 64}."
        )
        raise ConfigError("model.model_config.padded_vocab_size", padded_vocab_size, fix)
