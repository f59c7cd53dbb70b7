"""How transformers calls a tokenizer, beside `tokenizer(text)`: encode_plus, apply_chat_template and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once
from mindformers_glm.tokenizers import encoding
from mindformers_glm.tokenizers.encoding import Encoding
from mindformers_glm.tokenizers.formats.base import ChatFormat
from mindformers_glm.tokenizers.messages import read_messages
from mindformers_glm.tokenizers.text_calls import TextCalls


class PublishedCalls(TextCalls):
    """Methods of transformers' tokenizers in terms of `__call__`, `pad` and the renderer of chats."""

    if TYPE_CHECKING:

        @property
        def rules(self) -> ChatFormat: ...  # noqa: D102

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> Encoding:
        """The same as calling the tokenizer with one text."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, texts: Sequence[Any], **options: Any) -> Encoding:
        """The same as calling the tokenizer with several texts, pairs of texts, or rows of ids."""
        if isinstance(texts, (str, Mapping)) or not isinstance(texts, Sequence):
            raise ConfigError("batch_text_or_text_pairs", texts, "Expected a list of texts.")
        return self(list(texts), **options)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        **more: Any,
    ) -> Any:
        """Ids of a conversation in the form that this model was trained on; its text with `tokenize=False`.

        The form is the model's own (see tokenizers/chat.py), message by message, so that no text becomes a role. A
        list of conversations gives a list. `return_dict` gives `input_ids` and `attention_mask`, `return_tensors`
        arrays (B, T). A reply is waited for with `add_generation_prompt`.

        Raises:
            ConfigError: another template, or documents, were asked for.
            GenerationError: a conversation of a form that this model does not know.
        """
        if chat_template is not None:
            raise ConfigError("chat_template", chat_template, "The form of a chat is the model's own. Leave it out.")
        if documents:
            raise ConfigError("documents", documents, "Put them into a message. Leave this argument out.")
        if continue_final_message:
            raise ConfigError("continue_final_message", True, "A reply is always written anew. Use False.")
        if more:
            log_once(f"apply_chat_template: {', '.join(sorted(more))} have no effect here.")
        many = bool(conversation) and _is_conversation(conversation[0])
        rules = self.rules
        write = rules.prompt if add_generation_prompt else rules.said
        conversations = conversation if many else [conversation]
        rows = [write(read_messages(one, tools=tools or None)) for one in conversations]
        if not tokenize:
            texts = [rules.text(row) for row in rows]
            return texts if many else texts[0]
        if max_length is not None and truncation not in (False, "do_not_truncate"):
            rows = [encoding.cut(row, max_length, self.truncation_side) for row in rows]
        encoded = self.pad({"input_ids": rows}, padding=padding, max_length=max_length, return_tensors=return_tensors)
        if not many and return_tensors is None:
            encoded = Encoding({name: rows[0] for name, rows in encoded.items()})
        return encoded if return_dict else encoded["input_ids"]

    def build_inputs_with_special_tokens(self, first: Sequence[int], second: Sequence[int] | None = None) -> list[int]:
        """`[gMASK] sop first`, and with a second row `second eos` after it."""
        return self._assemble(list(first), None if second is None else list(second), True, None, None)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many ids `encode` adds to those of the text."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))


def _is_conversation(item: Any) -> bool:
    """True for a list of messages, where one conversation would have a message or a pair of texts."""
    return isinstance(item, (list, tuple)) and bool(item) and not isinstance(item[0], str)
