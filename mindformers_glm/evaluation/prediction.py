"""Prediction as run mode: texts, a list or a file in, a list of results and text_generation_result.txt out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm.errors import CheckpointError, ConfigError, DataError
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.files import read_small, write_text
from mindformers_glm.generation.config import GenerationConfig, make_config
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import engine_of, generate_rows
from mindformers_glm.log import log_once, logger
from mindformers_glm.models.recognise import family_named
from mindformers_glm.tokenizers import formats
from mindformers_glm.tokenizers.chatglm import GLM3_ROLES, RoleTokenizer
from mindformers_glm.tokenizers.glm import GLMTokenizer

if TYPE_CHECKING:
    from mindspore import nn

RESULT_NAME = "text_generation_result.txt"
_TEXT_SUFFIXES = (".txt", ".json", ".jsonl", ".csv")


def predict(
    model: nn.Cell | Engine,
    tokenizer: GLMTokenizer,
    inputs: str | Path | Sequence[str],
    *,
    batch_size: int | None = None,
    generation_config: GenerationConfig | dict | None = None,
    streamer: Any = None,
    add_special_tokens: bool = True,
    unescape: bool = False,
    result_file: str | Path | None = None,
    share: Share = ALL,
    model_name: str | None = None,
    **settings: Any,
) -> list[dict[str, list[str]]]:
    """`[{'text_generation_text': [prompt and answer, ...]}, ...]`: one dictionary for each batch, in order.

    `inputs` and `unescape` as for `read_inputs`, `model_name` as for `prompt_ids`; `batch_size` None is 1, and the
    last batch may be smaller.
    `settings` are fields of GenerationConfig and override `generation_config`, and that the model's defaults.
    `result_file` receives the list as Python prints it; the file appears whole or not at all. `share` says which
    batches this rank computes; the results are those of all ranks.

    Raises:
        ConfigError: a batch size below 1, or no inputs.
        DataError: a file that cannot be read, or holds no prompt.
        GenerationError: a setting that makes no sense, or a prompt that does not fit; before anything is generated.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ConfigError("predict_batch_size", batch_size, "Use a whole number of 1 or more.")
    engine = model if isinstance(model, Engine) else engine_of(model)
    config = make_config(generation_config, engine.defaults, **settings)
    texts = read_inputs(inputs, unescape=unescape)
    prompts = prompt_ids(tokenizer, texts, model_name=model_name, add_special_tokens=add_special_tokens)
    for row, prompt in enumerate(prompts):
        config.limits(prompt, seq_length=engine.max_length, row=row)
    size, done = batch_size or 1, {}
    for number, begin in enumerate(range(0, len(prompts), size)):
        drawn = share.settings(config)
        if share.has(number):
            rows = generate_rows(engine, prompts[begin : begin + size], drawn, streamer=streamer)
            done[number] = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    results = [{"text_generation_text": texts} for texts in share.joined(done)]
    if result_file is not None:
        logger.info("output result is: %s", results)
        write_text(result_file, str(results))
        logger.info("output result is saved at: %s", result_file)
    return results


def prompt_ids(
    tokenizer: GLMTokenizer, texts: Sequence[str], *, model_name: str | None = None, add_special_tokens: bool = True
) -> list[list[int]]:
    """Ids of each prompt: as it is written, or for a `model_name` of a model with roles (glm3_6b, glm32k, glm4_9b_chat,
    glm_edge_1_5b) as a user's message.

    Raises:
        ConfigError: a name of another family than the tokenizer's.
    """
    family = family_named(model_name)
    if family is not None and formats.has_roles(family.chat_format):
        if not isinstance(tokenizer, RoleTokenizer):
            fix = "Its chat form has roles, and this tokenizer has none: leave it out, or give the right tokenizer."
            raise ConfigError("model_name", model_name, fix)
        return [tokenizer.build_chat_ids(text) for text in texts]
    if isinstance(tokenizer, RoleTokenizer) and any(mark in text for text in texts for mark in GLM3_ROLES):
        log_once(
            "A role token written in a prompt (<|user|>) is plain text to the model: ask in its chat form with "
            "model_name='glm3_6b' (--model_name glm3_6b), or with model.chat."
        )
    return [tokenizer.encode(text, add_special_tokens=add_special_tokens) for text in texts]


def read_inputs(inputs: str | Path | Sequence[str], *, unescape: bool = False) -> list[str]:
    r"""Prompts of a text, of a list, or of a file with one prompt per line, where blank lines are left out.

    In a file the two characters \n stand for a new line; with `unescape` (as the command line wants it) they do in
    texts too.

    Raises:
        ConfigError: nothing was given, or something that is not text.
        DataError: the file is missing, empty, or not UTF-8.
    """
    if isinstance(inputs, Mapping):
        raise ConfigError("predict_data", inputs, "Give a text, several texts, or a file.")
    given: Any = [inputs] if isinstance(inputs, Path) else inputs
    if unescape and isinstance(given, str) and given and _is(given, "is_dir"):
        raise ConfigError("predict_data", inputs, "This is a folder; give prompts, or a text file with one per line.")
    if not isinstance(given, Iterable):
        raise ConfigError("predict_data", inputs, "Give a text, several texts, or a file.")
    texts: list[Any] = [given] if isinstance(given, str) else list(given)
    files = [text for text in texts if isinstance(text, Path) or (isinstance(text, str) and _names_a_file(text))]
    if files and len(files) == len(texts):
        return [prompt for file in files for prompt in _read_file(Path(file))]
    if files and unescape:
        fix = f"{files[0]!r} is a file and others are texts: give files alone, or texts alone."
        raise ConfigError("predict_data", texts, fix)
    if not any(not isinstance(text, str) or text.strip() for text in texts):
        raise ConfigError("predict_data", inputs, "Give a text, several texts, or a file.")
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError("predict_data", text, "A prompt is text: give one text, or a list of texts.")
    return [text.replace("\\n", "\n") for text in texts] if unescape else texts


def _names_a_file(text: str) -> bool:
    """True for the path of a file, and for what can only be meant as one."""
    if "\n" in text or len(text) > 4096:
        return False
    return _is(text, "is_file") or text.endswith(_TEXT_SUFFIXES) and not any(char.isspace() for char in text)


def _is(text: str, kind: str) -> bool:
    """Whether a text names a file or folder; a prompt may be no path at all."""
    try:
        return getattr(Path(text), kind)()
    except (OSError, ValueError):
        return False


def _read_file(path: Path) -> list[str]:
    try:
        text = read_small(path).decode("utf-8-sig")  # not splitlines: it also breaks at \x0b, \x85 and \u2028
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    except UnicodeDecodeError as error:
        fault = f"cannot be read (byte {error.start} is not UTF-8)"
        raise DataError(str(path), fault, "Give a UTF-8 text file, a prompt per line") from error
    except CheckpointError as error:
        if not path.exists():
            raise DataError(str(path), "there is no such file", "Give a text file, a prompt per line") from error
        fix = f"Give a UTF-8 text file, a prompt per line ({error})"
        raise DataError(str(path), "cannot be read", fix) from error
    prompts = [line.replace("\\n", "\n") for line in lines if line.strip()]
    if not prompts:
        raise DataError(str(path), "no line has text", "Write one prompt per line")
    if len(prompts) < len(lines):
        logger.info("%s: %d blank lines are left out", path, len(lines) - len(prompts))
    return prompts
