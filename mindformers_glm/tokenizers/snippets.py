"""Arguments that published code gives to tokenizers: what they mean here, or a log line, once, where they mean nothing.

The snippets of the official model pages are written for transformers. An argument that has a meaning here is honoured;
one that is about Python code, downloads or another implementation is named once in the log and then left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_glm.errors import ConfigError
from mindformers_glm.log import log_once

_DOWNLOADS = "it is about downloading, and files on this disk are read as they are"
_ONE_TOKENIZER = "there is one implementation of each tokenizer"
WITHOUT_MEANING = {
    "trust_remote_code": "code that comes with weights is never run",
    "code_revision": "code that comes with weights is never run",
    "use_fast": _ONE_TOKENIZER,
    "from_slow": _ONE_TOKENIZER,
    "legacy": _ONE_TOKENIZER,
    **dict.fromkeys(("revision", "cache_dir", "force_download", "resume_download", "local_files_only"), _DOWNLOADS),
    **dict.fromkeys(("token", "use_auth_token", "proxies", "mirror"), _DOWNLOADS),
    "model_max_length": "texts are cut only where max_length is given",
    "clean_up_tokenization_spaces": "text comes back as it was encoded",
    "device": "ids are on the CPU until a network takes them",
    "device_map": "ids are on the CPU until a network takes them",
    "torch_dtype": "ids have no floating-point type",
}
_IN_A_CALL = {
    "verbose": "warnings are not repeated",
    "is_split_into_words": "words and ids in a list are taken as such",
    "clean_up_tokenization_spaces": "text comes back as it was encoded",
    "return_special_tokens_mask": "",
    "return_token_type_ids": "",
    "return_overflowing_tokens": "",
    "return_offsets_mapping": "",
    "return_length": "",
    "spaces_between_special_tokens": "",
    "stride": "",
}


def of_loading(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `from_pretrained` without those that mean nothing here; each of these is logged once."""
    kept = {}
    for name, value in given.items():
        if name not in WITHOUT_MEANING:
            kept[name] = value
        elif value not in (None, False, {}):
            log_once(f"{name}: {value!r} has no effect on a tokenizer here: {WITHOUT_MEANING[name]}.")
    return kept


def of_a_call(given: Mapping[str, Any], known: str) -> None:
    """Passes when arguments of a call are such that nothing is lost by leaving them out.

    Raises:
        ConfigError: an argument that nobody knows, or one that asks for something that is not given here.
    """
    for name, value in given.items():
        if name not in _IN_A_CALL:
            raise ConfigError(f"tokenizer.{name}", value, f"No argument has this name. Known: {known}.")
        if value not in (None, False, 0) and not _IN_A_CALL[name]:
            raise ConfigError(f"tokenizer.{name}", value, "This column is not made here. Leave it out.")
