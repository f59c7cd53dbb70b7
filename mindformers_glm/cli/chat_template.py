"""Compares a model's own chat template with our chat format: `mindformers-glm chat-template FOLDER`.

FOLDER holds a tokenizer and chat_template.jinja, or a tokenizer_config.json with chat_template. A dozen conversations
(system prompts, rounds, tools, calls, thoughts, white space), or those of --conversations, are written in both ways.
The template runs in Jinja's sandbox (pip install 'mindformers_glm[template]'); prompts are never made with it.
Exit status 0 when all texts are the same, 1 when one differs, 2 when nothing could be compared.
"""

from __future__ import annotations

import argparse
import json

from mindformers_glm.cli.options import Parser
from mindformers_glm.models.recognise import tokenizer_from
from mindformers_glm.tokenizers.formats import FORMATS
from mindformers_glm.tokenizers.template import TALKS, Template, compare, is_loose, read_talks, read_template


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("folder", help="folder of the model's tokenizer")
    p.add_argument("--template", help="another template: a file or folder")
    p.add_argument("--chat_format", choices=list(FORMATS), help="compare with this format (the one that files tell)")
    p.add_argument("--conversations", help='JSON file: a list of {"messages": [...], "tools": [...]}')
    p.add_argument("--show", action="store_true", help="print both texts of every conversation")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each conversation."""
    args = parser().parse_args(arguments)
    place = args.template or args.folder
    template = Template(read_template(place), place=str(place))
    tokenizer = tokenizer_from(args.folder)
    if args.chat_format:
        tokenizer.chat_format = args.chat_format
    talks = read_talks(args.conversations) if args.conversations else TALKS
    loosely = ", white space left out" if is_loose(tokenizer) else ""
    print(f"the template of {place} beside the chat format {tokenizer.chat_format}{loosely}")
    found = list(compare(tokenizer, template, talks))
    for one in found:
        print(f"  {one.verdict:<14}{one.talk.name}" + (f": {one.why}" if one.why else ""))
        if args.show:
            print(f"    here:     {json.dumps(one.ours, ensure_ascii=False)}")
            print(f"    template: {json.dumps(one.theirs, ensure_ascii=False)}")
    same, both = (sum(one.verdict in kinds for one in found) for kinds in (("same",), ("same", "different")))
    print(f"{same} of {both} conversations that both know are the same text")
    return 1 if same < both else 0
