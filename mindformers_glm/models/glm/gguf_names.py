"""What GGUF files call the weights: llama.cpp's architecture chatglm keeps q, k and v joined, glm4 keeps them apart.

Sources: the classes ChatGLMModel and Glm4Model of llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

_OFFICIAL = {
    "token_embd": "transformer.embedding.word_embeddings",
    "output_norm": "transformer.encoder.final_layernorm",
    "output": "transformer.output_layer",
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_NATIVE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_self_attn_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_mlp_layernorm",
}
_LAYER, _NATIVE_LAYER = "transformer.encoder.layers.", "model.layers."
_WHOLE = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in _OFFICIAL.items() if ours.startswith("transformer.")}
_WHOLE["transformer.embedding.embedding_table"] = _WHOLE.pop("transformer.embedding.word_embeddings.weight")
_PARTS = {ours: theirs for theirs, ours in _OFFICIAL.items() if not ours.startswith("transformer.")}
_PARTS |= {ours: theirs for theirs, ours in _NATIVE.items() if theirs.startswith("post_")}


def gguf_name(ours: str) -> str | None:
    """The name of one of our weights in a GGUF file; None where it has none."""
    if ours in _WHOLE:
        return _WHOLE[ours]
    number, _, rest = ours.removeprefix(_LAYER).partition(".")
    stem, _, suffix = rest.rpartition(".")
    return f"blk.{number}.{_PARTS[stem]}.{suffix}" if stem in _PARTS and ours.startswith(_LAYER) else None


def from_gguf(name: str, *, is_split: bool) -> str | None:
    """The official name of a weight of a GGUF file, transformers' own where it `is_split`; None for an unknown one."""
    table, layer = (_NATIVE, _NATIVE_LAYER) if is_split else (_OFFICIAL, _LAYER)
    stem, _, kind = name.rpartition(".")
    if stem in table:
        return f"{table[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) != 3 or parts[0] != "blk" or not parts[1].isdigit() or len(parts[1]) > 8:
        return None
    if parts[2] in table:
        return f"{layer}{int(parts[1])}.{table[parts[2]]}.{kind}"
    if parts[2] == "attn_qkv":
        return f"{_LAYER}{int(parts[1])}.{_OFFICIAL['attn_qkv']}.{kind}"
    return None
