"""ChatGLM2, ChatGLM3 and GLM-4 for causal language modelling. Shapes: see layers.py."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindformers_glm import runtime
from mindformers_glm.adapters.config import LoraConfig, PrefixConfig
from mindformers_glm.adapters.lora import add_lora
from mindformers_glm.adapters.prefix import PrefixEncoder, freeze_all_but_prefix
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once
from mindformers_glm.models.device import check_device
from mindformers_glm.models.glm.cached import Cached, HiddenStates
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.layers import Block, Recomputed
from mindformers_glm.models.glm.stages import Part
from mindformers_glm.models.glm.weights import rotary, tied
from mindformers_glm.models.interface import NetworkParts
from mindformers_glm.models.linear import INIT_SIGMA, Linear, Norm
from mindformers_glm.models.quantized import QuantizedLinear, make_quantized
from mindformers_glm.models.text_generation import TextGeneration
from mindformers_glm.ops.attention import MASKED, causal_mask
from mindformers_glm.ops.cross_entropy import CrossEntropy, HeadCrossEntropy, IntegerHeadCrossEntropy
from mindformers_glm.ops.linear import matrix_type
from mindformers_glm.ops.rotary import head_scales
from mindformers_glm.ops.token_range import require_token_range
from mindformers_glm.registry import MODELS

CACHE_MARGIN = 1024  # a cache may have this many slots more than seq_length: it grows in blocks


class Embedding(nn.Cell):
    """The table of token vectors, in `embedding_type`."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        shape, kind = (config.padded_vocab_size, config.hidden_size), getattr(ms, config.embedding_type)
        self.embedding_table = Parameter(initializer(Normal(INIT_SIGMA), shape, kind), name="embedding_table")
        self.dtype = getattr(ms, config.stream_dtype)

    def construct(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> rows (N, D) in the type of the residual."""
        return ops.cast(ops.gather(self.embedding_table, input_ids.reshape(-1), 0), self.dtype)


class Encoder(nn.Cell):
    """The layers and the final norm, or those of them that `part` names."""

    def __init__(self, config: ChatGLM2Config, part: Part):
        super().__init__()
        recomputed = recomputed_parts(config)[part.first : part.end]
        self.layers = nn.CellList([Block(config, recomputed=what) for what in recomputed])
        self.final_layernorm = Norm(config) if config.post_layer_norm and part.is_last else None

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        batch: int,
        prefix: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Rows (N, D) -> normed rows (N, D). prefix (L, 2, B, K, P, E); `first` (B, T) for packed rows."""
        for i in range(len(self.layers)):
            x = self.step(i, x, cos, sin, mask, batch, prefix, first)
        return self.norm(x)

    def step(
        self,
        i: int,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        batch: int,
        prefix: Tensor | None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Layer i with its part of the prefix, where there is one."""
        if prefix is not None:
            return self.layers[i](x, cos, sin, mask, batch, prefix[i, 0], prefix[i, 1], first)
        if first is not None:
            return self.layers[i](x, cos, sin, mask, batch, None, None, first)
        return self.layers[i](x, cos, sin, mask, batch)

    def norm(self, x: Tensor) -> Tensor:
        """The final norm where the network has one."""
        return x if self.final_layernorm is None else self.final_layernorm(x)[0]


class ChatGLM2Model(nn.Cell):
    """Embedding, layers, and the output layer, which the caller applies to the rows it needs."""

    def __init__(self, config: ChatGLM2Config, part: Part | None = None):
        super().__init__()
        config.settled()
        part = part or Part(0, config.num_layers)
        self.embedding: Any = Embedding(config) if part.has_table else None
        self.encoder = Encoder(config, part)
        self.output_layer: Any = None  # of the last stage
        if part.is_last:
            self.output_layer = Linear(config.hidden_size, config.padded_vocab_size, bias=False, config=config)
        heads, kv_heads, channels = config.num_attention_heads, config.num_kv_heads, config.kv_channels
        self.length, self.groups, self.channels = config.seq_length, heads // kv_heads, channels
        self.table = Tensor(rotary(config))
        self.share_of_sequence = (0, 1)  # this rank, and how many train on parts of one sequence (context parallel)
        self.slots = Tensor(np.arange(config.seq_length + CACHE_MARGIN, dtype=np.int32))
        scales = head_scales(heads=heads, kv_heads=kv_heads, channels=channels)
        self.factor, self.offset = (Tensor(scale) for scale in scales)
        self.noise = None  # of NEFTune, while training

    def construct(
        self,
        input_ids: Tensor,
        prefix: Tensor | None = None,
        first: Tensor | None = None,
        positions: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Token ids (B, T) -> normed rows (N, D). `first` (B, T): what each token sees begins there (packed rows).

        `positions` (B, T) replace 0 to T - 1 in the rotary embedding and change nothing of what is seen. `rows` (N, D)
        are what the stage before has computed, where this is a later stage of a pipeline.
        """
        cos, sin, mask = self.seen(input_ids, first, positions)
        x = self.embedded(input_ids) if rows is None else rows
        return self.encoder(x, cos, sin, mask, input_ids.shape[0], prefix, first)

    def embedded(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> rows (N, D) that the first layer takes."""
        x = self.embedding(input_ids)
        if self.noise is not None and self.training:
            x = x + self.noise(x, input_ids.shape[1])
        return x

    def seen(self, input_ids: Tensor, first: Tensor | None, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """cos, sin and mask of the tokens, as `place` gives them; `first` and `positions` see `construct`."""
        cos, sin, mask = self.place(input_ids)
        if first is not None:
            mask = mask + self.unseen(first)
        if positions is not None:
            cos, sin = self.angles(positions)
        return cos, sin, mask

    def unseen(self, first: Tensor) -> Tensor:
        """MASKED where a key lies before the first position that its row may look at: (B, T) -> (B, 1, G * T, T)."""
        batch, tokens = first.shape
        rows = ops.tile(first, (1, self.groups)).reshape(batch, 1, -1, 1)
        if self.training:
            tokens = tokens * self.share_of_sequence[1]
        return ops.cast(self.slots[:tokens].reshape(1, 1, 1, -1) < rows, ms.float32) * MASKED

    def place(self, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cos, sin and mask of whole sequences, with B = 1: each row holds positions 0 to T - 1; see `turned`.

        Where ranks share sequences while training, of this rank's tokens: the mask is (1, 1, G * T, ranks * T).
        """
        tokens, (rank, ranks) = input_ids.shape[1], self.share_of_sequence
        if self.training and ranks > 1:
            own, keys = self.slots[rank * tokens : (rank + 1) * tokens], self.slots[: ranks * tokens]
            cos, sin = self.angles(own.reshape(1, -1))
            return cos, sin, causal_mask(own.reshape(1, -1), groups=self.groups, keys=keys.reshape(1, -1))
        if tokens > self.length:
            raise ValueError(f"{tokens} tokens and the rotary table ends at seq_length {self.length}")
        return self.turned(self.slots[:tokens].reshape(1, -1))

    def turned(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cos, sin (B, H + 2 K, T, E) and mask (B, 1, G * T, T) of tokens at `positions` (B, T)."""
        cos, sin = self.angles(positions)
        return cos, sin, causal_mask(positions, groups=self.groups)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The cos and sin (B, H + 2 K, T, E) of tokens at `positions` (B, T)."""
        batch = positions.shape[0]
        angles = ops.gather(self.table, positions.reshape(-1), 0)
        cos, sin = (part.reshape(batch, 1, -1, self.channels) for part in (angles[:, 0], angles[:, 1]))
        return cos * self.factor + self.offset, sin * self.factor


@MODELS.register("ChatGLM2WithPtuning2")
class ChatGLM2ForConditionalGeneration(TextGeneration):
    """The network with its loss; generation is found by name, so that the network knows none of it.

    Adapters that the configuration asks for (`pet_config`, `pre_seq_len`) are attached here. With `part` this is one
    stage of a pipeline: parameters have the names of the whole network, `construct` takes the rows of the stage before,
    and all but the last stage give rows.

    Raises:
        ConfigError: the device cannot compute in the configured type, or `pet_config` does not fit.
    """

    def __init__(self, config: ChatGLM2Config, part: Part | None = None):
        super().__init__()
        check_device(config, runtime.device_target())
        part = part or Part(0, config.num_layers)
        self.config, self.part, self.is_last = config, part, part.is_last
        self.transformer = ChatGLM2Model(config, part)
        if config.tie_word_embeddings and part.is_last:  # one parameter, whose gradient is the sum of both uses
            self.transformer.output_layer.weight = self.transformer.embedding.embedding_table
        self.tied = tied(config)
        self.own: nn.Cell | None = None  # the tokens of a batch that this rank trains on
        self.tokens_divide_by = (1, 1)  # what a sequence and the rows of a batch must divide by while training
        self.loss, self.share = CrossEntropy(), None  # models/glm/parallelize.py replaces them
        self.prefix_encoder = None
        if config.quantization_bit or config.quantization_embedding_bits:
            make_quantized(self, config)
        adapter = config.adapter
        if isinstance(adapter, PrefixConfig):
            self.prefix_encoder = PrefixEncoder(
                adapter,
                num_layers=config.num_layers,
                kv_heads=config.num_kv_heads,
                head_dim=config.kv_channels,
                dtype=config.compute_dtype,
            )
            freeze_all_but_prefix(self)
        elif adapter is not None:
            add_lora(self, adapter)
        self.head_loss: Any = None
        self.integer_loss: IntegerHeadCrossEntropy | None = None
        self.set_loss()
        if part.first:
            for parameter in self.get_parameters():
                parameter.name = part.whole_name(parameter.name)
        object.__setattr__(self, "_cached", None)

    @property
    def parts(self) -> NetworkParts:
        """Its Cells by what they do."""
        model = self.transformer
        blocks = tuple(layer.parts for layer in model.encoder.layers)
        embedding, head = getattr(model, "embedding", None), getattr(model, "output_layer", None)  # a stage has not all
        table = getattr(embedding, "embedding_table", None)
        return NetworkParts(table, model.table, blocks, model.encoder.final_layernorm, head)

    def set_loss(self, *, smoothing: float = 0.0) -> None:
        """Prepares the loss of training for what is frozen now, with so much of each label spread over all words."""
        if not self.is_last:
            return
        frozen = not self.transformer.output_layer.weight.requires_grad
        rounded = matrix_type(self.config.compute_dtype)[1]
        self.head_loss = HeadCrossEntropy(frozen=frozen, rounded=rounded, smoothing=smoothing)
        head, undivided = self.transformer.output_layer, isinstance(self.loss, CrossEntropy)
        self.integer_loss = None
        if type(head) is QuantizedLinear and head.bias is None and undivided:
            self.integer_loss = IntegerHeadCrossEntropy(bits=head.bits, rounded=rounded, smoothing=smoothing)
        if undivided:
            self.loss = CrossEntropy(smoothing=smoothing)
        else:
            self.loss.smoothing = smoothing

    @property
    def computes_layers_again(self) -> bool:
        """Whether a step is to keep what goes into each layer alone, and compute the layer again for its gradients."""
        is_whole = self.part == Part(0, self.config.num_layers) and self.share is None and self.own is None
        return is_whole and layers_again(self.config)

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What `construct` gives; a sequence that is too long, an id or a label out of range is refused before that."""
        if input_ids.shape[-1] > self.config.seq_length:
            fix = f"These sequences have {input_ids.shape[-1]} tokens: cut them, or build the model longer."
            raise ConfigError("model_config.seq_length", self.config.seq_length, fix)
        labels = args[0] if args else kwargs.get("labels")
        ids = input_ids[:, 0] if input_ids.ndim == 3 else input_ids
        given = (ids.asnumpy(), None if labels is None else labels.asnumpy())
        require_token_range(*given, self.config.padded_vocab_size)
        return super().__call__(input_ids, *args, **kwargs)

    def construct(self, input_ids: Tensor, labels: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of token ids (B, T), or with labels (B, T) the loss: both float32.

        Labels are shifted by the dataset already; -100 is not learned. Packed rows come as (B, 2, T): ids, and for each
        the first position it may look at. Rotary positions need not restart: scores depend on their differences alone,
        unless a learned prefix is seen, which is not rotated. A third plane (B, 3, T) holds positions.
        """
        if self.own is not None and self.training:
            input_ids, labels = self.own(input_ids), None if labels is None else self.own(labels)
        input_ids, first, positions = self.planes(input_ids)
        batch, tokens = input_ids.shape
        prefix = None if self.prefix_encoder is None else self.prefix_encoder(batch)
        rows = self.transformer(input_ids, prefix, first, positions, rows)
        return self.told(rows, batch, tokens, labels) if self.is_last else rows

    def planes(self, input_ids: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Token ids (B, T), and of packed rows `first` and `positions`; see `construct`."""
        if input_ids.ndim != 3:
            return input_ids, None, None
        positions, first = None, input_ids[:, 1]
        if input_ids.shape[1] == 3:
            positions = input_ids[:, 2]
        elif self.prefix_encoder is not None:
            positions = self.transformer.slots[: input_ids.shape[2]].reshape(1, -1) - first
        return input_ids[:, 0], first, positions

    def told(self, rows: Tensor, batch: int, tokens: int, labels: Tensor | None) -> Tensor:
        """What `construct` gives, of the last layer's normed rows (N, D)."""
        head = self.transformer.output_layer
        if labels is not None and self.training and head.is_plain:
            loss = self.head_loss(ops.cast(rows, head.dtype), head.weight, labels.reshape(-1))
            return loss if self.share is None else self.share(loss, labels)
        if labels is not None and self.training and self.integer_loss is not None:
            rows = ops.cast(rows, head.dtype)
            if self.integer_loss.kernel_fits(rows):
                loss = self.integer_loss(rows, head.weight, head.weight_scale, labels.reshape(-1))
                return loss if self.share is None else self.share(loss, labels)
        logits = head(rows)
        if labels is None:
            return ops.cast(logits, ms.float32).reshape(batch, tokens, -1)
        return self.loss(logits, labels.reshape(-1))

    def forward_cached(
        self,
        input_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        last: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of new tokens after a cached past, and the keys and values to append to the cache.

        input_ids (B, T); positions (B, T) int32, rising along T also over padding on the right; past_length (B,)
        int32: slots of the cache in use; key_cache, value_cache (L, B, K, S, E). Result: logits (B, T, V) float32, or
        (B, V) at the row `last` (B,) of each sequence; new keys and new values (L, B, K, T, E).
        """
        if self._cached is None:
            object.__setattr__(self, "_cached", Cached(self))
        return self._cached(input_ids, positions, past_length, key_cache, value_cache, last)

    def hidden_states(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """The hidden states (B, T, D) after the embedding and after each layer, before the final norm."""
        return HiddenStates(self)(input_ids)


def recomputed_parts(config: ChatGLM2Config) -> list[Recomputed]:
    """What each layer computes again in the backward pass, as `recompute_config` and `no_recompute_layers` say.

    In PyNative mode MindSpore loses the gradients of a recomputed layer whose input has none, which is where LoRA
    stands: there everything is kept. On a CPU the step computes layers again (`layers_again`): what MindSpore
    recomputes there are formulas, in an order that keeps more than if nothing were recomputed.
    """
    if isinstance(config.adapter, LoraConfig) and not runtime.is_graph_mode():
        if config.recompute_config.recompute or config.recompute_config.select_recompute:
            log_once("recompute_config: with LoRA, activations are recomputed in graph mode only (context.mode: 0)")
        return ["nothing"] * config.num_layers
    form, kept = config.recompute_config, config.no_recompute_layers or []
    whole = form.layers(form.recompute, config.num_layers)
    scores = form.layers(form.select_recompute, config.num_layers)
    if runtime.is_graph_mode() and runtime.device_target() == "CPU":
        if scores:
            log_once("recompute_config.select_recompute has no effect on a CPU: its kernels keep no scores")
        return ["nothing"] * config.num_layers
    return [
        "nothing" if i in kept else "all" if i in whole else "scores" if i in scores else "nothing"
        for i in range(config.num_layers)
    ]


def layers_again(config: ChatGLM2Config) -> bool:
    """Whether `recompute_config.recompute` lets a step on this device compute layers again (train/layered.py).

    That is all layers or none. Dropout would draw other numbers the second time, and a prefix has gradients from every
    layer: with these nothing is computed again.
    """
    form = config.recompute_config
    if not (runtime.is_graph_mode() and runtime.device_target() == "CPU" and form.layers(form.recompute, 1)):
        return False
    draws = config.attention_dropout or config.hidden_dropout or getattr(config.adapter, "lora_dropout", 0)
    if draws or config.has_prefix:
        log_once(
            "recompute_config.recompute has no effect on a CPU with dropout or a prefix: nothing is computed again"
        )
        return False
    if not isinstance(form.recompute, bool) or config.no_recompute_layers:
        log_once("recompute_config: on a CPU all layers are computed again, or none: here all")
    return True
