"""The model names that users may write, and what each stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import MOST_NAMED, ConfigError, listed, nearest

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"
# an installed package carries the configurations; a checkout, and what is installed from it with -e, has them beside
CONFIGS_DIR = next((path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir()), PACKAGE)
DOWNLOAD_DIR = Path("checkpoint_download")


class ModelName(NamedTuple):
    """One registered name."""

    family: str  # folder below checkpoint_download/ and configs/: the part before the first "_"
    yaml: str  # default configuration, relative to configs/
    tokenizer_type: str
    hub_id: str | None = None  # repository on a Hugging Face compatible hub, used only when the user asks


def _named(name: str, family: str, hub_id: str, tokenizer: str = "ChatGLM4Tokenizer") -> dict[str, ModelName]:
    """A model, and its LoRA."""
    return {one: ModelName(family, f"{family}/run_{one}.yaml", tokenizer, hub_id) for one in (name, f"{name}_lora")}


MODEL_NAMES: dict[str, ModelName] = {
    "glm2_6b": ModelName("glm2", "glm2/run_glm2_6b.yaml", "ChatGLM2Tokenizer", "THUDM/chatglm2-6b"),
    "glm2_6b_lora": ModelName("glm2", "glm2/run_glm2_6b_lora.yaml", "ChatGLM2Tokenizer", "THUDM/chatglm2-6b"),
    "glm2_6b_ptuning2": ModelName("glm2", "glm2/run_glm2_6b_ptuning2.yaml", "ChatGLM2Tokenizer", "THUDM/chatglm2-6b"),
    "glm2_6b_32k": ModelName("glm2", "glm2/run_glm2_6b_32k.yaml", "ChatGLM2Tokenizer", "THUDM/chatglm2-6b-32k"),
    "glm3_6b": ModelName("glm3", "glm3/run_glm3_6b.yaml", "ChatGLM3Tokenizer", "THUDM/chatglm3-6b"),
    "glm3_6b_32k": ModelName("glm3", "glm3/run_glm3_6b_32k.yaml", "ChatGLM3Tokenizer", "THUDM/chatglm3-6b-32k"),
    "glm3_6b_128k": ModelName("glm3", "glm3/run_glm3_6b_128k.yaml", "ChatGLM3Tokenizer", "THUDM/chatglm3-6b-128k"),
    **_named("codegeex2_6b", "codegeex2", "THUDM/codegeex2-6b", "ChatGLM2Tokenizer"),
    **_named("codegeex4_9b", "glm4", "THUDM/codegeex4-all-9b"),
    **_named("glm4_9b", "glm4", "THUDM/glm-4-9b"),
    **_named("glm4_9b_chat", "glm4", "THUDM/glm-4-9b-chat"),
    **_named("glm4_9b_chat_1m", "glm4", "THUDM/glm-4-9b-chat-1m"),
    **_named("glm4_9b_0414", "glm4", "THUDM/GLM-4-9B-0414"),
    **_named("glm4_32b_0414", "glm4", "THUDM/GLM-4-32B-0414"),
    **_named("glm_z1_9b", "glm4", "THUDM/GLM-Z1-9B-0414"),
    **_named("glm_z1_32b", "glm4", "THUDM/GLM-Z1-32B-0414"),
    **_named("glm_edge_1_5b", "glm_edge", "THUDM/glm-edge-1.5b-chat"),
    **_named("glm_edge_4b", "glm_edge", "THUDM/glm-edge-4b-chat"),
    "glm2_tiny": ModelName("glm2", "tiny/run_glm2_tiny_finetune.yaml", "ChatGLM2Tokenizer"),
    "glm2_tiny_lora": ModelName("glm2", "tiny/run_glm2_tiny_lora.yaml", "ChatGLM2Tokenizer"),
    "glm3_tiny": ModelName("glm3", "tiny/run_glm3_tiny.yaml", "ChatGLM3Tokenizer"),
    "glm3_tiny_lora": ModelName("glm3", "tiny/run_glm3_tiny_lora.yaml", "ChatGLM3Tokenizer"),
}

# tokens that the published models take: the YAML of most names says how long the rows of its training are instead
_LENGTHS = {
    "THUDM/chatglm2-6b": 32768,
    "THUDM/chatglm2-6b-32k": 32768,
    "THUDM/chatglm3-6b": 8192,
    "THUDM/chatglm3-6b-32k": 32768,
    "THUDM/chatglm3-6b-128k": 131072,
    "THUDM/codegeex2-6b": 8192,
    "THUDM/codegeex4-all-9b": 131072,
    "THUDM/glm-4-9b": 8192,
    "THUDM/glm-4-9b-chat": 131072,
    "THUDM/glm-4-9b-chat-1m": 1048576,
    "THUDM/GLM-4-9B-0414": 32768,
    "THUDM/GLM-4-32B-0414": 32768,
    "THUDM/GLM-Z1-9B-0414": 32768,
    "THUDM/GLM-Z1-32B-0414": 32768,
    "THUDM/glm-edge-1.5b-chat": 8192,
    "THUDM/glm-edge-4b-chat": 4096,
    "glm2_tiny": 512,
    "glm3_tiny": 1024,
}


def published_length(name: Any) -> int | None:
    """Tokens that the published model of a registered name or hub id takes; None for every other text.

    Source: seq_length or max_position_embeddings of the published config.json.
    """
    row = MODEL_NAMES.get(name) if isinstance(name, str) else None
    return _LENGTHS.get((row and row.hub_id) or str(name).removesuffix("_lora"))


def model_name(name: Any, key: str = "model") -> ModelName:
    """The row of a registered name.

    Raises:
        ConfigError: no such name; the nearest one is given.
    """
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    near = nearest(str(name), MODEL_NAMES)
    hint = f"Did you mean {near[0]!r}?" if near else f"Registered names: {listed(sorted(MODEL_NAMES), MOST_NAMED)}."
    raise ConfigError(key, name, f"No model has this name, and no file or folder either. {hint}")
