"""`model.generate`, `model.chat` and `model.stream_chat`: their signatures; generation provides them, found by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mindformers_glm import runtime
from mindformers_glm.models.torch_methods import TorchMethods
from mindformers_glm.registry import service

if TYPE_CHECKING:  # rows above this one: a network knows no text and no search
    from mindformers_glm.generation.chat import Turn
    from mindformers_glm.generation.config import GenerationConfig
    from mindformers_glm.tokenizers.glm import GLMTokenizer

Message = Mapping[str, Any]  # role, content, and for tools tool_calls or metadata


class TextGeneration(TorchMethods):
    """A network that generates. Shapes: T tokens of a prompt."""

    def generate(
        self,
        input_ids: Any,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        logits_processor: Any = None,
        streamer: Any = None,
        seed: int | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        **settings: Any,
    ) -> list[np.ndarray]:
        """Prompt and new ids of each prompt given, int32 arrays of their own length.

        `input_ids` is one prompt (T) or several, lists of any lengths, an array or a Tensor; `settings` are fields of
        GenerationConfig and win over `generation_config`.

        >>> ids = tokenizer("你好")["input_ids"]
        >>> tokenizer.decode(model.generate(ids, max_new_tokens=64, do_sample=True, top_p=0.8)[0])

        Raises:
            GenerationError: a prompt or setting that cannot be honoured, before anything is computed.
        """
        given = (generation_config, logits_processor, streamer, seed, attention_mask, position_ids)
        return service("generate")(self, input_ids, *given, **settings)

    def chat(
        self,
        tokenizer: GLMTokenizer,
        query: str | Message | Sequence[Message] | None = None,
        history: Sequence[Any] | None = None,
        **options: Any,
    ) -> Turn:
        """The reply to a message, and the history with both: a pair (reply, history).

        `query` may also be a message or a whole conversation; `options` are those of `stream_chat`.

        >>> reply, history = model.chat(tokenizer, "你好")
        >>> reply, history = model.chat(tokenizer, "再说一遍", history=history, do_sample=False)

        Raises:
            GenerationError: a history that this model's form of chat does not know, or a setting that makes no sense.
        """
        return service("chat")(self, tokenizer, query, history, **options)

    def stream_chat(
        self,
        tokenizer: GLMTokenizer,
        query: str | Message | Sequence[Message] | None = None,
        history: Sequence[Any] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        role: str = "user",
        system: str | None = None,
        tools: Any = None,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Iterator[Turn]:
        """The reply so far and the history with it, after every token.

        `history` holds pairs (query, reply) or messages {role, content}; `messages` is another name of a query that is
        a conversation; with `tools` the model is told what it may call; `settings` are fields of GenerationConfig.

        >>> for reply, history in model.stream_chat(tokenizer, "你好", max_new_tokens=64):
        ...     print(reply)

        Raises:
            GenerationError: as `chat`.
        """
        options = {
            "messages": messages,
            "role": role,
            "system": system,
            "tools": tools,
            "generation_config": generation_config,
        }
        return service("stream_chat")(self, tokenizer, query, history, **options, **settings)

    def num_parameters(self, *, trained: bool = False) -> int:
        """How many numbers its parameters hold, or those of them that are trained."""
        return sum(parameter.size for parameter in (self.trainable_params() if trained else self.get_parameters()))

    def __repr__(self) -> str:
        config = self.config
        count = self.num_parameters()
        heads = f"{config.num_attention_heads} heads" + (
            f" in {config.num_kv_heads} groups" if config.num_kv_heads != config.num_attention_heads else ""
        )
        shape = f"{config.num_layers} layers of {config.hidden_size}, {heads}, vocabulary {config.padded_vocab_size}"
        kinds = f"{config.quantization_bit} bits" if config.quantization_bit else config.param_init_type
        adapter = f", {type(config.adapter).__name__.removesuffix('Config')}" if config.adapter else ""
        return (
            f"{type(self).__name__}({shape}, {count:,} parameters, {kinds}{adapter}, computing in "
            f"{config.compute_dtype} on {runtime.device_target()})"
        )
