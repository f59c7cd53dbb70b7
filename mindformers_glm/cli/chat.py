"""Chats with a model in the terminal.

    mindformers-glm chat
    mindformers-glm chat --model glm3_folder --tools tools.json --temperature 0.8 --top_p 0.8 --stats
    mindformers-glm chat --model configs/tiny/run_glm3_tiny.yaml --lang en
    mindformers-glm chat --model glm3_folder --tp_size 2
    mindformers-glm chat --lite glm2_export
    echo "你好" | mindformers-glm chat

In the chat, /help lists the commands (retry, edit, clear, save, stats, stop). See docs/chat.md.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm.cli.options import Parser, add_prompt_lookup, lookup_tokens, number, tell_of_lookup, whole
from mindformers_glm.cli.ranks import add_tp_size, start
from mindformers_glm.errors import ConfigError
from mindformers_glm.messages import asked, choose
from mindformers_glm.serving.interrupt import hold, watched
from mindformers_glm.serving.phrases import LANGUAGES, Phrases

if TYPE_CHECKING:
    from mindformers_glm.serving.conversation import Conversation
    from mindformers_glm.serving.loading import Loaded


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--model", default="glm2_tiny", help="registered name, folder, weight file or YAML (glm2_tiny)")
    p.add_argument("--adapter", help="LoRA on top: PEFT folder or checkpoint")
    p.add_argument("--lite", metavar="EXPORT", help="an exported model in MindSpore Lite instead of --model")
    p.add_argument("--lite_python", help="the Python that has mindspore_lite (found by itself where it is usual)")
    p.add_argument("--lora_alpha", type=number(above=True), help="alpha of the adapter, where no file tells it")
    p.add_argument("--tokenizer", help="tokenizer instead of the model's own: name, folder or tokenizer.model")
    p.add_argument("--seq_length", type=whole(), help="longest conversation in tokens, reply included (the model's)")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="CPU, or what the YAML says")
    add_tp_size(p)
    p.add_argument("--system", help="what the model is told before the conversation")
    p.add_argument("--tools", help="JSON file with descriptions of tools (ChatGLM3)")
    p.add_argument("--temperature", type=float, help="above 0: sample; 0: always the most probable token")
    p.add_argument("--top_p", type=float)
    p.add_argument("--top_k", type=int)
    p.add_argument("--repetition_penalty", type=float)
    p.add_argument("--max_new_tokens", type=int, help="longest reply (what the context has room for)")
    add_prompt_lookup(p)
    p.add_argument("--seed", type=int, help="the same answers to the same conversation every time")
    p.add_argument("--lang", choices=("zh", "en"), help="language of prompts and notes (MINDFORMERS_GLM_LANG; zh)")
    p.add_argument("--stats", action="store_true", help="tokens, speed and time to the first token after each answer")
    p.add_argument("--markdown", action="store_true", help="show headings, **strong** and `code` of answers in colour")
    p.add_argument("--no_history", action="store_true", help="keep no file of what is typed")
    return p


def main(argv: list[str] | None = None) -> None:
    """Loads the model and talks."""
    chosen = parser().parse_args(argv)
    if chosen.lite and chosen.tp_size > 1:
        raise ConfigError("--tp_size", chosen.tp_size, "An exported model is whole: use --model, or one process.")
    start(chosen.tp_size, "chat", sys.argv[1:] if argv is None else argv)
    if chosen.lang is not None:
        choose(chosen.lang)
    talk(chosen, LANGUAGES[chosen.lang or asked() or "zh"])


def talk(
    chosen: argparse.Namespace,
    phrases: Phrases,
    *,
    first: Callable[[Loaded], str] | None = None,
    load: Callable[[argparse.Namespace], Loaded] | None = None,
) -> None:
    """Talks with the settings of the command line; `first` gives a line to show before the welcome.

    `load` gives the model where it is not `load_chosen`.
    """
    hold()  # before MindSpore starts threads
    os.environ.setdefault("GLOG_v", "3")  # its warnings would run through the answers; errors are still shown
    with watched(_leave):
        from mindformers_glm.serving.console import StandardConsole, history_file  # noqa: PLC0415
        from mindformers_glm.serving.terminal import TerminalChat  # noqa: PLC0415

        tools = _tools(chosen)
        loaded = (load or load_chosen)(chosen)
        conversation = _conversation(chosen, loaded, tools)
    if first is not None:
        print(first(loaded), flush=True)
    model = Path(chosen.lite or chosen.model).name
    console = StandardConsole(history=None if chosen.no_history else history_file())
    TerminalChat(
        conversation, console, phrases=phrases, model=model, shows_figures=chosen.stats, markdown=chosen.markdown
    ).run()


def load_conversation(chosen: argparse.Namespace) -> Conversation:
    """The model with the settings of the command line."""
    tools = _tools(chosen)
    return _conversation(chosen, load_chosen(chosen), tools)


def load_chosen(chosen: argparse.Namespace, **changes: Any) -> Loaded:
    """Engine and tokenizer that the command line names; `changes` are keys of the network's configuration."""
    from mindformers_glm.serving.loading import load  # noqa: PLC0415 - as in `talk`

    if chosen.lite:
        return load_lite(chosen)
    return load(
        chosen.model,
        adapter=chosen.adapter,
        lora_alpha=chosen.lora_alpha,
        tokenizer=chosen.tokenizer,
        seq_length=chosen.seq_length,
        device_target=chosen.device_target,
        tp_size=chosen.tp_size,
        **changes,
    )


def _tools(chosen: argparse.Namespace) -> Any:
    from mindformers_glm.serving.conversation import read_tools  # noqa: PLC0415 - as in `talk`

    return None if chosen.tools is None else read_tools(chosen.tools)


def _conversation(chosen: argparse.Namespace, loaded: Loaded, tools: Any) -> Conversation:
    from mindformers_glm.serving.conversation import Conversation, chat_config  # noqa: PLC0415 - as in `talk`

    names = (
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "max_new_tokens",
        "seed",
    )
    tell_of_lookup(chosen, loaded.engine)
    guesses = lookup_tokens(chosen) if loaded.engine.checks_guesses else 0
    given = {name: getattr(chosen, name) for name in names}
    config = chat_config(loaded.engine, **given, prompt_lookup_num_tokens=guesses)
    return Conversation(loaded.engine, loaded.tokenizer, config, system=chosen.system, tools=tools)


def load_lite(chosen: argparse.Namespace) -> Loaded:
    """The exported model that `--lite` names, in a runtime of MindSpore Lite that ends with this program.

    Raises:
        UserError: an option that an exported model cannot honour, or whatever `open_lite` finds.
    """
    from mindformers_glm.export.lite.engine import open_lite  # noqa: PLC0415 - as in `talk`
    from mindformers_glm.serving.loading import Loaded  # noqa: PLC0415

    for name in ("adapter", "seq_length"):
        if getattr(chosen, name) is not None:
            raise ConfigError(f"--{name}", getattr(chosen, name), "It is fixed when a model is exported: export again.")
    lite = open_lite(chosen.lite, tokenizer=chosen.tokenizer, lite_python=chosen.lite_python)
    atexit.register(lite.close)
    if lite.tokenizer is None:
        raise ConfigError("--tokenizer", None, "The export has no tokenizer: name tokenizer.model.")
    return Loaded(lite.engine, lite.tokenizer)


def _leave() -> None:
    """Ctrl-C while the model is loaded: there is nothing to keep."""
    print("stopped by Ctrl-C", file=sys.stderr, flush=True)
    os._exit(130)
