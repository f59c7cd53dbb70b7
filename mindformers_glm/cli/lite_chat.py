"""The work of `mindformers-glm infer-lite`: prompts to an exported model in MindSpore Lite, and what it answers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from mindformers_glm.errors import ConfigError, UserError
from mindformers_glm.evaluation.prediction import read_inputs
from mindformers_glm.export.lite.engine import Export, LiteChat, open_lite, read_export
from mindformers_glm.generation.config import GenerationConfig, make_config
from mindformers_glm.models.recognise import family_named
from mindformers_glm.serving.typed import BOM, Lines
from mindformers_glm.tokenizers.chatglm import RoleTokenizer
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.tokenizers.stream import TextStream

_ANY = "common"  # the name of no family
_ASK = 'Please enter your predict data (exit ends; [Round 1] to 答： is one prompt, others of several lines in """): '
_ROUND, _REPLY = "[Round ", "答："  # a text of rounds as it is pasted: it ends where the model is to answer
_SETTINGS = ("do_sample", "top_k", "top_p", "repetition_penalty", "temperature")


def open_model(args: argparse.Namespace) -> LiteChat:
    """The model that the options name.

    Raises:
        UserError: there is none, it does not fit the other options, or Lite cannot run it.
    """
    path = args.model_dir or args.prefill_model_path or args.increment_model_path
    if not path:
        raise ConfigError("--model_dir", None, "Name the folder of an export, or a graph with --prefill_model_path.")
    if args.model_name != _ANY and family_named(args.model_name) is None:
        raise ConfigError("--model_name", args.model_name, f"Use {_ANY}, or a name such as glm2_6b, glm3_6b, glm4_9b.")
    export = read_export(path, increment=args.increment_model_path, tokenizer=args.tokenizer_path)
    check(export, args)
    return open_lite(
        export,
        lite_python=args.lite_python,
        target=args.device_target,
        config_path=args.config_path,
        threads=args.threads,
        device_id=args.device_id,
        rank_id=args.rank_id,
    )


def check(export: Export, args: argparse.Namespace) -> None:
    """Refuses options that do not fit the export, before Lite is started.

    Raises:
        UserError: one does not.
    """
    own = type(tokenizer_of(export)).__name__
    if args.seq_length not in (None, export.config.seq_length):
        raise ConfigError("--seq_length", args.seq_length, f"The model was exported with {export.config.seq_length}.")
    family = family_named(args.model_name)
    if family is not None and family.tokenizer != own:
        raise ConfigError("--model_name", args.model_name, f"The export has a {own}, which that model has not.")
    if args.prompt and "{}" not in args.prompt:
        raise ConfigError("--prompt", args.prompt, "It needs {} where the text goes.")
    settings_of(export.defaults, args)


def tokenizer_of(lite: LiteChat | Export) -> GLMTokenizer:
    """The tokenizer of the export, or the one that was named.

    Raises:
        ConfigError: there is none.
    """
    if lite.tokenizer is None:
        raise ConfigError("--tokenizer_path", None, "The export has no tokenizer: name tokenizer.model.")
    return lite.tokenizer


def settings_of(defaults: GenerationConfig, args: argparse.Namespace) -> GenerationConfig:
    """How to generate: the options, over these defaults."""
    lengths = {"max_new_tokens": args.max_output_length} if args.max_output_length else {"max_length": args.max_length}
    return make_config(None, defaults, **lengths, **{name: getattr(args, name) for name in _SETTINGS})


def ids_of(lite: LiteChat, args: argparse.Namespace, text: str) -> list[int]:
    """A prompt as ids: in the template, and for ChatGLM3 as a message of the user."""
    template = args.prompt.replace("\\n", "\n")
    text = template.replace("{}", text) if template else text
    tokenizer = tokenizer_of(lite)
    if isinstance(tokenizer, RoleTokenizer):
        return tokenizer.build_chat_ids(text)
    return tokenizer.encode(text, add_special_tokens=args.add_special_tokens)


def answer(lite: LiteChat, args: argparse.Namespace, texts: list[str]) -> list[str]:
    """Prompts with their replies as text; with --stream the reply to a single one is printed as it grows."""
    config = settings_of(lite.engine.defaults, args)
    prompts = [ids_of(lite, args, text) for text in texts]
    tickets = [lite.engine.submit(prompt, config, index=row) for row, prompt in enumerate(prompts)]
    try:
        if args.stream and len(tickets) == 1:
            stream = TextStream(tokenizer_of(lite))
            for token in tickets[0]:
                print(stream.push(token.choice.token), end="", flush=True)
            print(stream.flush(), flush=True)
        rows = [prompt + ticket.results()[0].ids for prompt, ticket in zip(prompts, tickets, strict=True)]
    finally:
        for ticket in tickets:
            ticket.cancel()
    return [tokenizer_of(lite).decode(row, skip_special_tokens=True) for row in rows]


def typed(ask: Callable[[str], str] = input) -> Iterator[str]:
    """Prompts from the terminal, until `exit` or the end of the input.

    A line is a prompt. A text that begins with `[Round ` goes on to the line `答：`; triple quotes, or a backslash at
    the end of a line, join others.
    """
    lines, rounds = Lines(), list[str]()
    while True:
        try:
            line = ask("... " if lines.is_open or rounds else _ASK).removeprefix(BOM)
        except EOFError:
            begun = rounds or ([left.text] if (left := lines.flush()) else [])
            if begun and "".join(begun).strip():
                yield "\n".join(begun).replace("\\n", "\n")
            return
        if rounds or (not lines.is_open and line.startswith(_ROUND) and not line.rstrip().endswith(_REPLY)):
            rounds.append(line)
            if line.strip() != _REPLY:
                continue
            text, rounds = "\n".join(rounds), []
        else:
            said = lines.push(line)
            if said is None:
                continue
            text = said.text
        text = text.replace("\\n", "\n")
        if text.strip() == "exit":
            return
        if text.strip():
            yield text


def run(args: argparse.Namespace) -> None:
    """Answers what was given, or what is typed, as the options of `infer_lite` say.

    Raises:
        UserError: there is no such model, or a prompt of --predict_data cannot be answered.
    """
    words = args.predict_data
    given = None if not words else read_inputs(words[0] if len(words) == 1 else words, unescape=True)
    with open_model(args) as lite:
        if given is None:
            for text in typed():
                show(lite, args, [text])
            return
        for _ in range(args.generated_time):
            begin = time.perf_counter()
            for first in range(0, len(given), max(args.batch_size, 1)):
                show(lite, args, given[first : first + max(args.batch_size, 1)])
            if args.generated_time > 1:
                print(f"{time.perf_counter() - begin:.3f} s")


def show(lite: LiteChat, args: argparse.Namespace, texts: list[str]) -> None:
    """Prints the answers as the list that MindFormers prints, unless one was streamed; a fault does not end the run."""
    try:
        answers = answer(lite, args, texts)
    except UserError as error:
        if args.predict_data:
            raise
        print(f"error: {error}", file=sys.stderr)
        return
    if not (args.stream and len(texts) == 1):
        print(answers, flush=True)
