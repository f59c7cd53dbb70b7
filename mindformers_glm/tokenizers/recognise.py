"""Which model a name, and which tokenizer a folder, belongs to: asked here by everyone, so that all answer alike.

The vocabularies of ChatGLM2 and ChatGLM3 are one file, so the file cannot tell; what lies beside it can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.log import log_once, logger
from mindformers_glm.tokenizers import files

_NAMED = re.compile(r"(?:chat)?glm-?([234])(?![0-9])|codegeex-?([24])(?![0-9])")
_OF_A_RUN = re.compile(r"(checkpoint|global_step|step|epoch)[-_]?\d+|[0-9a-f]{40}|snapshots|\.?", re.IGNORECASE)
_OFFICIAL = "ChatGLMTokenizer"  # the class that the files of ChatGLM2 and of ChatGLM3 name alike
_CLASSES = {2: "ChatGLM2Tokenizer", 3: "ChatGLM3Tokenizer"}
_BYTE_PAIRS = "ChatGLM4Tokenizer"  # whatever class of transformers the files name
_ROLES, _ROUNDS = ("<|assistant|>", "<|user|>", "<|{{", "<|observation|>"), ("[Round",)
_CODE = "tokenization_chatglm.py"


def named_model(path: Any) -> int | None:
    """The generation of GLM that the last part of a path or name names; None when it names none, or several.

    Folders that a run made below its model (checkpoint-500, a snapshot's hash) are no part of the name; folders above
    it are none either: a ChatGLM2 below `ChatGLM3/models/` is a ChatGLM2.
    """
    parts = [part for part in re.split(r"[/\\]+", str(path or "")) if not _OF_A_RUN.fullmatch(part)]
    found = {int(a or b) for a, b in _NAMED.findall(parts[-1].lower())} if parts else set()
    return found.pop() if len(found) == 1 else None


def tokenizer_class(folder: str | Path) -> str:
    """Name of the registered class of the tokenizer in a folder.

    Its files are asked in turn: a YAML of ours, the class and the chat template of tokenizer_config.json, the official
    Python file (read, never run), the names in the configurations, the folder's own name, the context length. A folder
    where none of these tells is taken for ChatGLM2's, and a warning says so.

    Raises:
        DataError: a file is no JSON.
    """
    folder = Path(folder)
    told = _told_by_yaml(folder)
    if told:
        return told
    vocabulary = files.vocabulary_in(folder)
    if vocabulary is not None and files.kind(vocabulary) != "sentencepiece":
        return _BYTE_PAIRS
    settings = _object(folder / files.SETTINGS)
    kind = settings.get("tokenizer_class", _OFFICIAL)
    if kind != _OFFICIAL:
        return str(kind)
    config = _object(folder / "config.json")
    for ask in _QUESTIONS:
        number = ask(folder, settings, config)
        if number in _CLASSES:
            return _CLASSES[number]
    if config or settings:
        logger.warning(
            "%s: nothing here says whether the tokenizer is ChatGLM2's or ChatGLM3's, ChatGLM2's is taken. "
            'If it is the other, write "tokenizer_class": "ChatGLM3Tokenizer" into %s.',
            folder,
            files.SETTINGS,
        )
    else:
        log_once(f"{folder}: taken for ChatGLM2's tokenizer; type='ChatGLM3Tokenizer' takes it for the other.")
    return _CLASSES[2]


def chat_format_in(folder: str | Path, *, byte_pairs: bool) -> str | None:
    """The chat format that the files beside a tokenizer tell; None leaves it to the tokenizer's class.

    The chat template is asked first, then the model's type in config.json, then the names.
    """
    folder = Path(folder)
    settings, config = _object(folder / files.SETTINGS), _object(folder / "config.json")
    names = (settings.get("name_or_path"), config.get("_name_or_path"), folder.resolve().name)
    name = " ".join(re.split(r"[/\\]", str(given))[-1].lower() for given in names if given)
    if not byte_pairs:
        return "codegeex2" if "codegeex2" in name or "rotary_percent" in config else None
    template = f"{settings.get('chat_template') or ''}{_text(folder / 'chat_template.jinja')}"
    if template:
        if "<think>" in template:
            return "glm_z1"
        if "[gMASK]" not in template:
            return "glm_edge"
        introduces = any(word in template for word in ("ChatGLM", "名为", "GLM-4"))
        return "glm4_0414" if "可用工具" in template and not introduces else "glm4"
    if config.get("model_type") == "glm4" or "0414" in name:
        return "glm_z1" if re.search(r"(?<![a-z])z1(?![0-9])", name) else "glm4_0414"
    if "edge" in name or (config.get("model_type") == "glm" and config.get("vocab_size", 0) < 100_000):
        return "glm_edge" if config.get("vocab_size", 59264) == 59264 else None
    return None


def _told_by_yaml(folder: Path) -> str | None:
    yaml = folder / "config.yaml"
    return lookup(read_yaml(yaml), "processor.tokenizer.type") if yaml.is_file() else None


def _by_template(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> int | None:
    keys = ("chat_template", "additional_special_tokens", "added_tokens_decoder")
    texts = [*(settings.get(key) for key in keys), _text(folder / "chat_template.jinja")]
    return _by_words("".join(map(str, filter(None, texts))))


def _by_code(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> int | None:
    code = _text(folder / _CODE)
    return _by_words(code) if code else None


def _by_name(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> int | None:
    names: Iterator[Any] = iter((settings.get("name_or_path"), config.get("_name_or_path"), folder.resolve()))
    return next((number for number in map(named_model, names) if number), None)


def _by_context(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> int | None:
    """The published files differ in these lengths; CodeGeeX2, a ChatGLM2, alone states `rotary_percent`."""
    ratio, length = config.get("rope_ratio", 1), config.get("seq_length")
    if ratio != 1:
        return {16: 2, 50: 3, 500: 3}.get(ratio)
    if length == 8192:
        return 2 if "rotary_percent" in config else 3
    return None


_QUESTIONS: tuple[Callable[[Path, dict[str, Any], dict[str, Any]], int | None], ...] = (
    _by_template,
    _by_code,
    _by_name,
    _by_context,
)


def _by_words(text: str) -> int | None:
    if any(word in text for word in _ROLES):
        return 3
    return 2 if any(word in text for word in _ROUNDS) else None


def _object(path: Path) -> dict[str, Any]:
    return files.read_settings(path) if path.is_file() else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""
