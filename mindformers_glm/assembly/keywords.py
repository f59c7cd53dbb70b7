"""Arguments of transformers' from_pretrained, as published snippets have them: what each means here, or why nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

from mindformers_glm import runtime
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once
from mindformers_glm.ops.linear import multiplies

_TYPES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"}
_KNOWN = ("float32", "float16", "bfloat16")
_DEVICES = {"cpu": "CPU", "npu": "Ascend", "ascend": "Ascend"}
_WITHOUT_EFFECT = {
    "trust_remote_code": "no code of a model's folder is ever run",
    "code_revision": "no code of a model's folder is ever run",
    "use_fast": "there is one tokenizer of each kind",
    "low_cpu_mem_usage": "weights are read one tensor at a time always",
    "empty_init": "networks are built without initial values always",
    "use_safetensors": "the form of the files tells itself",
    "resume_download": "downloads always go on where they stopped",
    "force_download": "remove the folder below checkpoint_download/ to fetch a model again",
    "cache_dir": "models are kept below ./checkpoint_download",
    "mirror": "HF_ENDPOINT names another hub",
    "proxies": "HTTPS_PROXY in the environment names a proxy",
    "token": "HF_TOKEN in the environment is used",
    "use_auth_token": "HF_TOKEN in the environment is used",
    "attn_implementation": "use_flash_attention in the configuration chooses on Ascend",
    "use_cache": "generating always has a cache unless use_past=False is said to it",
    "offload_folder": "nothing is offloaded",
    "max_memory": "nothing is offloaded",
}


class Keywords(NamedTuple):
    """What the arguments mean: keys of the network's configuration, and where files come from."""

    changes: dict[str, Any]
    revision: str | None
    local_only: bool


def taken(given: dict[str, Any]) -> Keywords:
    """Takes transformers' arguments out of `given`; the rest are keys of the configuration.

    `torch_dtype` (or `dtype`) is the type of the weights, and of the matmuls where this device gains by it.
    `load_in_8bit` and `load_in_4bit` quantise. `device` and `device_map` select Ascend; "cuda" is noted, and the device
    in use stays.

    Raises:
        ConfigError: a type or device that nobody knows.
        DeviceError: Ascend was asked for and is not there.
    """
    for name in [name for name in given if name in _WITHOUT_EFFECT]:
        if given.pop(name) not in (None, False):
            log_once(f"from_pretrained: {name} has no effect: {_WITHOUT_EFFECT[name]}")
    revision, local_only = given.pop("revision", None), bool(given.pop("local_files_only", False))
    for name in ("device", "device_map"):
        if name in given:
            _select(name, given.pop(name))
    changes: dict[str, Any] = {}
    for name in ("torch_dtype", "dtype"):
        if name in given:
            changes.update(_types(name, given.pop(name)))
    for name, bits in (("load_in_8bit", 8), ("load_in_4bit", 4)):
        if given.pop(name, False):
            changes["quantization_bit"] = bits
    return Keywords(changes, None if revision in (None, "main", "master") else str(revision), local_only)


def _types(name: str, value: Any) -> dict[str, str]:
    word = str(getattr(value, "__name__", value)).rpartition(".")[2].lower()
    word = _TYPES.get(word, word)
    if value is None or word == "auto":
        return {}
    if word not in _KNOWN:
        fix = f"Use one of {', '.join(_KNOWN)}; here the keys are compute_dtype and param_init_type."
        raise ConfigError(name, value, fix)
    if word != "float32" and runtime.device_target() == "CPU" and (word == "float16" or not multiplies(word)):
        log_once(f"{name} {word}: weights are held in it, and this CPU computes in float32 (compute_dtype)")
        return {"param_init_type": word, "compute_dtype": "float32"}
    return {"param_init_type": word, "compute_dtype": word}


def _select(name: str, value: Any) -> None:
    word = str(value).lower().partition(":")[0]
    if value is None or word == "auto":
        return
    if word.startswith("cuda") or isinstance(value, (int, dict)):
        log_once(f"from_pretrained: {name}={value!r} has no effect: MindSpore computes on {runtime.device_target()}")
        return
    if word not in _DEVICES:
        raise ConfigError(name, value, "Use 'cpu', 'npu' or 'auto'.")
    if _DEVICES[word] != runtime.device_target():
        runtime.set_up({"device_target": _DEVICES[word]})
