"""What a network of the GLM family looks like, and the defaults for generating with it. No MindSpore here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from mindformers_glm.adapters.config import Dtype, LoraConfig, PrefixConfig, read_pet_config
from mindformers_glm.config.section import RecomputeKeys
from mindformers_glm.errors import ConfigError, ConfigErrors
from mindformers_glm.models.family import imported
from mindformers_glm.ops.yarn import Yarn
from mindformers_glm.registry import CONFIGS, SCHEMES, pydantic_faults

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
_HF = "mindformers_glm.models.glm.hf_config"  # which makes such configurations, and so imports this module
Probability = Annotated[float, Field(ge=0, lt=1)]

# A flag whose other value would need a network that is not here: key -> (the value that works, why).
_FIXED = {
    "is_sample_acceleration": (False, "The network returns logits; sampling happens outside it. Use False."),
    "use_ring_attention": (False, "Ring attention is not implemented. Use False."),
    "use_rearrange_rope": (
        False,
        "Networks keep the rows of query and key in the official order. For weights in the other one: "
        "tools/convert_weight.py with this YAML beside them, then use False.",
    ),
    "interleaved_qkv": (False, "Rows of query, key and value stand one after the other, as officially. Use False."),
    "mask_generate": (None, "The mask is always causal. Leave this key out."),
}


class RopeScaling(BaseModel):
    """YaRN (ops/yarn.py), by the keys of transformers; GLM-4-0414 is meant to be used with factor 4 on long texts."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    rope_type: Literal["yarn"] = "yarn"
    factor: Annotated[float, Field(ge=1)] = 1.0
    original_max_position_embeddings: Size
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    beta_slow: Annotated[float, Field(gt=0)] = 1.0
    attention_factor: Annotated[float, Field(gt=0)] | None = None

    @property
    def yarn(self) -> Yarn:
        """The same for the rotary table."""
        original = self.original_max_position_embeddings
        return Yarn(self.factor, original, self.beta_fast, self.beta_slow, self.attention_factor)


class RecomputeConfig(RecomputeKeys):
    """Which layers compute their activations again in the backward pass instead of keeping them.

    `recompute`: all (True), none, or the number of layers counted from the first; a list gives that number for each
    pipeline stage. `select_recompute` recomputes attention scores and the MLP's activation only, in the same forms.
    The three flags about communication are MindFormers' and act in its automatic parallel mode only.
    """

    def layers(self, form: bool | int | list[int], num_layers: int) -> range:
        """Indices of the layers that one of the two keys selects."""
        if isinstance(form, bool):
            return range(num_layers if form else 0)
        if isinstance(form, list):
            if len(form) != 1:
                raise ConfigError(
                    "recompute_config.recompute", form, "One number for each pipeline stage, and there is one stage."
                )
            form = form[0]
        return range(min(form, num_layers))


@CONFIGS.register("chatglm2", "glm2", "glm3")
class ChatGLM2Config(BaseModel):
    """Shape, numerics and generation defaults of ChatGLM2/3; keys and defaults are those of MindFormers 0.8-2.1.

    Keys that need a word:

    - `rope_ratio` with `rope_method`: "base" multiplies the rotary base by the ratio (MindFormers, ChatGLM3-32k: 50,
      GLM-4: 500), "linear" divides positions by it (ChatGLM2-32k: 16). "unknown" is that of a config.json which does
      not say: no network is built before it is told.
    - `apply_query_key_layer_scaling`: scores are divided by sqrt(kv_channels) whatever it says, as in the official
      model; MindFormers left the division out when it was False.
    - `attention_softmax_in_fp32`, `softmax_compute_type`, `bias_dropout_fusion`: softmax is always float32; fusing is
      the device's affair.
    - `layernorm_compute_type` is the type of the norms and, unless `residual_dtype` says otherwise, of the hidden
      states.
    - `use_past`, `batch_size` and the keys of paged attention choose no other network: the cache is an argument of
      `forward_cached`, for any batch.
    - `use_flash_attention` chooses operators, not another network: on Ascend True takes MindSpore's flash attention
      where it fits (ops/ascend.py). On a CPU, and its relatives for inference anywhere, do nothing.
    - `quantization_bit`: weights of the linear layers are held as integers of 8 or 4 bits, the output layer's of at
      least `quantization_head_bits` (0: floats), with one scale for `quantization_group_size` columns (0: a whole
      row); for inference, and for LoRA on them (QLoRA). `quantization_embedding_bits` is for the token embedding.
    - `quantization_scheme` names how weights are rounded and multiplied (quantization/interface.py), and sets the two
      keys above. W8A8 layers are put in place when weights are loaded, from `quantization_weights` where it is given.
    - `rotary_percent` (0.5; GLM-Edge 1.0), `post_self_attn_layernorm` and `post_mlp_layernorm` (GLM-4-0414),
      `tie_word_embeddings` (GLM-Edge-1.5B: the output layer is the table of token vectors), `rope_scaling` (YaRN).
    - `max_length` None means `seq_length`.

    Raises:
        ConfigErrors: every wrong key and value, at construction and at assignment.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**_of_scheme(values))
        except ValidationError as error:
            raise _readable(error) from error

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise _readable(error) from error

    # shape
    num_layers: Size = 28
    padded_vocab_size: Size = 65024
    vocab_size: int | None = None  # MindFormers' second name of padded_vocab_size
    hidden_size: Size = 4096
    ffn_hidden_size: Size = 13696
    kv_channels: Size = 128
    num_attention_heads: Size = 32
    multi_query_attention: bool = True
    multi_query_group_num: Size = 2
    seq_length: Size = 2048
    # variants of the block
    rmsnorm: bool = True
    layernorm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    apply_residual_connection_post_layernorm: bool = False
    post_layer_norm: bool = True
    add_bias_linear: bool = False
    add_qkv_bias: bool = True
    apply_query_key_layer_scaling: bool = True
    rope_ratio: Annotated[float, Field(gt=0)] = 1.0
    rope_method: Literal["base", "linear", "unknown"] = "base"
    # regularisation
    hidden_dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    # numerics
    param_init_type: Dtype = "float16"
    compute_dtype: Dtype = "float16"
    layernorm_compute_type: Dtype = "float32"
    embedding_type: Dtype = "float32"
    residual_dtype: Dtype | None = None
    rotary_dtype: Dtype | None = None
    mask_type: str = "float32"
    attention_softmax_in_fp32: bool = True
    softmax_compute_type: Dtype = "float32"
    fp32_residual_connection: bool = False
    quantization_bit: Literal[0, 4, 8] = 0
    quantization_group_size: Literal[0, 16, 32, 64, 128] = 32
    quantization_scheme: str | None = None
    quantization_head_bits: Literal[0, 4, 8] = 8
    quantization_embedding_bits: Literal[0, 4, 8] = 0
    quantization_weights: str | None = None
    # fine-tuning
    pet_config: dict[str, Any] | None = None
    pre_seq_len: Annotated[int, Field(ge=0), BeforeValidator(lambda value: value or 0)] = 0
    prefix_projection: bool = False
    recompute_config: RecomputeConfig = Field(default_factory=RecomputeConfig)
    no_recompute_layers: list[int] | None = None
    # generation
    max_length: Size | None = None
    max_decode_length: Size | None = None
    max_new_tokens: Size | None = None
    do_sample: bool = True
    top_k: Annotated[int, Field(ge=0)] = 1
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    temperature: Annotated[float, Field(ge=0)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    num_beams: Size = 1
    eos_token_id: int | list[int] = 2
    pad_token_id: int = 0
    bos_token_id: int | None = None
    gmask_token_id: int | None = None
    # where the weights are
    checkpoint_name_or_path: str | None = None
    # how MindFormers ran it: accepted, no other network
    batch_size: Size = 1
    use_past: bool = False
    bias_dropout_fusion: bool = True
    use_flash_attention: bool = False
    use_prompt_flash_attention: bool = False
    use_incre_flash_attention: bool = False
    use_paged_attention: bool = False
    use_kvcache_op: bool = False
    use_ring_attention: bool = False
    is_dynamic: bool = False
    is_flexible_shape: bool = False
    is_sample_acceleration: bool = False
    block_size: Size = 16
    num_blocks: Size = 512
    prefix_name: str = "glm2"
    enable_high_performance: bool = False
    offset: int | list[int] = 0
    pp_interleave_num: Size = 1
    fine_grain_interleave: int | None = None
    mlp_concat: bool = True
    qkv_concat: bool = True
    use_rearrange_rope: bool = False
    mask_generate: str | None = None
    interleaved_qkv: bool = False
    rotary_percent: Annotated[float, Field(gt=0, le=1)] = 0.5
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    auto_map: dict[str, Any] | None = None
    post_self_attn_layernorm: bool = False
    post_mlp_layernorm: bool = False
    parallel_config: dict[str, Any] | None = None

    _adapter: tuple[Any, Any] = PrivateAttr((None, None))  # pet_config, and what was read from it

    @field_validator("*", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "None" else value

    @field_validator("pet_config")
    @classmethod
    def _pet(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value:
            read_pet_config(value)  # its faults are told with those of the other keys
        return value or None

    @model_validator(mode="after")
    def _fits(self) -> ChatGLM2Config:
        self._adapter = (self.pet_config, read_pet_config(self.pet_config)) if self.pet_config else (None, None)
        faults = list(self._contradictions())
        if faults:
            raise ConfigErrors("ChatGLM2Config", faults)
        return self

    def _contradictions(self) -> Iterator[ConfigError]:
        for key, (works, why) in _FIXED.items():
            if getattr(self, key) != works:
                yield ConfigError(key, getattr(self, key), why)
        if self.vocab_size not in (None, self.padded_vocab_size):
            fix = f"It is another name of padded_vocab_size ({self.padded_vocab_size})."
            yield ConfigError("vocab_size", self.vocab_size, fix)
        if self.kv_channels * self.rotary_percent % 2:
            share = "Half" if self.rotary_percent == 0.5 else f"{self.rotary_percent:g}"
            fix = f"{share} of it is rotated in pairs: use a multiple of {4 if self.rotary_percent == 0.5 else 2}."
            yield ConfigError("kv_channels", self.kv_channels, fix)
        if self.post_self_attn_layernorm != self.post_mlp_layernorm:
            fix = "The norms after attention and MLP (GLM-4-0414) come together: set both keys alike."
            yield ConfigError("post_mlp_layernorm", self.post_mlp_layernorm, fix)
        if self.num_attention_heads % self.num_kv_heads:
            fix = f"It must divide num_attention_heads ({self.num_attention_heads})."
            yield ConfigError("multi_query_group_num", self.multi_query_group_num, fix)
        if self.pre_seq_len and self.prefix_projection:
            yield ConfigError("prefix_projection", True, "The projected prefix is not implemented. Use False.")
        length = (self.pet_config or {}).get("pre_seq_len", self.pre_seq_len)
        if self.pet_config and self.pre_seq_len and (length != self.pre_seq_len or not self.has_prefix):
            fix = f"pet_config describes another adapter: {self.pet_config}."
            yield ConfigError("pre_seq_len", self.pre_seq_len, fix)
        yield from self._misfits_of_quantization()
        for index in self.no_recompute_layers or []:
            if not 0 <= index < self.num_layers:
                yield ConfigError("no_recompute_layers", index, f"Layers are numbered 0 to {self.num_layers - 1}.")

    def _misfits_of_quantization(self) -> Iterator[ConfigError]:
        if not self.quantization_bit:
            return
        if isinstance(self.adapter, LoraConfig) and self.adapter.use_dora:
            fix = "DoRA needs float weights: use_dora: False (LoRA goes with integers), or quantization_bit: 0."
            yield ConfigError("pet_config.use_dora", True, fix)
        widths = {
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads * kv_channels": self.num_attention_heads * self.kv_channels,
        }
        for key, width in widths.items():
            if width % (self.quantization_group_size or 16):
                fix = f"It must divide {key} ({width})."
                yield ConfigError("quantization_group_size", self.quantization_group_size, fix)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What a prompt shows: the shape, and every key that is not the default."""
        shape = (
            "num_layers",
            "hidden_size",
            "ffn_hidden_size",
            "num_attention_heads",
            "padded_vocab_size",
            "seq_length",
        )
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in shape or value != field.get_default(call_default_factory=True):
                yield name, value

    def settled(self) -> ChatGLM2Config:
        """The configuration itself, when a network can be built from it.

        Raises:
            ConfigError: nothing tells what `rope_ratio` means.
        """
        if self.rope_method == "unknown" and self.rope_ratio != 1:
            raise ConfigError(
                "rope_ratio",
                self.rope_ratio,
                "Its meaning depends on the model and _name_or_path does not name one: set rope_method (an argument, "
                "or a key of config.json) to 'linear' (ChatGLM2-32k) or 'base' (ChatGLM3-32k, GLM-4).",
            )
        return self

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that turn with the position."""
        return int(self.kv_channels * self.rotary_percent)

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values: the groups, or one for each query head."""
        return self.multi_query_group_num if self.multi_query_attention else self.num_attention_heads

    @property
    def stream_dtype(self) -> str:
        """Type of the hidden states."""
        return self.residual_dtype or ("float32" if self.fp32_residual_connection else self.layernorm_compute_type)

    @property
    def adapter(self) -> LoraConfig | PrefixConfig | None:
        """The adapter that `pet_config`, or `pre_seq_len` alone, asks for."""
        if self.pet_config:
            given, adapter = self._adapter
            return adapter if given == self.pet_config else read_pet_config(self.pet_config)  # a copy was changed
        return PrefixConfig.model_validate({"pre_seq_len": self.pre_seq_len}) if self.pre_seq_len else None

    @property
    def has_prefix(self) -> bool:
        """True when P-Tuning v2 is asked for."""
        return isinstance(self.adapter, PrefixConfig)

    @property
    def eos_token_ids(self) -> list[int]:
        """Every id that ends a reply."""
        return self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]

    @classmethod
    def from_hf(cls, given: Mapping[str, Any], **overrides: Any) -> ChatGLM2Config:
        """The configuration that an official `config.json` (already parsed) states; see hf_config.py.

        Raises:
            ConfigError: the file describes another network.
        """
        return imported(f"{_HF}:from_hf")(given, **overrides)

    def to_hf(self) -> dict[str, Any]:
        """The content of a `config.json` that the official code and `from_hf` read."""
        return imported(f"{_HF}:to_hf")(self)


def _of_scheme(values: dict[str, Any]) -> dict[str, Any]:
    """The values with what `quantization_scheme` says of the other keys.

    Raises:
        ConfigError: no such scheme, or keys that contradict it.
    """
    name = values.get("quantization_scheme")
    if name in (None, "None"):
        return values
    scheme = SCHEMES.get(name, "quantization_scheme")()
    group = values.get("quantization_group_size")
    keys = scheme.network_keys(group if isinstance(group, int) else None)
    bits = values.get("quantization_bit") or 0
    if bits not in (0, keys["quantization_bit"], scheme.bits):
        fix = f"The scheme {scheme.name} has {scheme.bits} bits: leave quantization_bit out, or name another scheme."
        raise ConfigError("quantization_bit", bits, fix)
    return {**values, **keys}


def _readable(error: ValidationError) -> ConfigErrors:
    return ConfigErrors("ChatGLM2Config", pydantic_faults(error, "", ChatGLM2Config.model_fields))
