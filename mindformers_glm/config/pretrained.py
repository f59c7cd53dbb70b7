"""`pretrained_model_dir`, as MindFormers has it since 1.6 (`use_legacy: False`): a Hugging Face folder says everything.

Its config.json describes the network, its files are the weights and the tokenizer; `model.model_config` holds no more
than types of computing. What the file says itself wins over the folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mindformers_glm.config.legacy import NETWORK, lookup
from mindformers_glm.config.vocabulary import beside
from mindformers_glm.registry import service

KEY = "pretrained_model_dir"
DESCRIBED, TOKENIZED = "describe_folder", "tokenizer_of_folder"  # services: model_config and tokenizer of a folder
_NETWORK_CONFIG, _ANY_TOKENIZER = "ChatGLM2Config", "ChatGLM4Tokenizer"  # where the folder is not here (yet)
_TYPES = {  # key of Megatron-core's configuration -> key of model_config
    "params_dtype": "param_init_type",
    "layernorm_compute_dtype": "layernorm_compute_type",
    "softmax_compute_dtype": "softmax_compute_type",
}


def with_folder(values: Mapping[str, Any]) -> dict[str, Any]:
    """The file with what its `pretrained_model_dir` says; without that key the file itself.

    A folder that does not exist is not an error here: the run names it when it looks for the weights.

    Raises:
        ConfigError: the folder's config.json describes another network.
    """
    place, values = values.get(KEY), dict(values)
    if not isinstance(place, str) or not place:
        return values
    is_here = os.path.isdir(place)
    model = dict(values.get("model") or {})
    given = model.get("model_config")
    if given is None or isinstance(given, Mapping):
        own = {_TYPES.get(key, key): value for key, value in (given or {}).items()}
        described = service(DESCRIBED)(place) if is_here else {"type": _NETWORK_CONFIG}
        model["model_config"] = {**described, **own}
    model.setdefault("arch", {"type": NETWORK})
    values["model"] = model
    values["load_checkpoint"] = values.get("load_checkpoint") or place
    if lookup(values, "processor.tokenizer") is None and (not is_here or beside(place)):
        told = service(TOKENIZED)(place) if is_here else {"type": _ANY_TOKENIZER, "vocab_file": place}
        values["processor"] = {"type": "GLMProcessor", **(values.get("processor") or {}), "tokenizer": told}
    return values
