r"""Turns text into .bin/.idx pairs of token ids, as ModelLink or Megatron write them; arguments are ModelLink's.

    mindformers-glm preprocess --input corpus.parquet --tokenizer-name-or-path chatglm3-6b --output-prefix corpus
    mindformers-glm preprocess --input alpaca.json --tokenizer-name-or-path chatglm3-6b --output-prefix alpaca \
        --handler-name GeneralInstructionHandler --append-eod
    mindformers-glm preprocess --verify corpus_text_document
    mindformers-glm preprocess --merge a_text_document b_text_document --output-prefix both

A run that was killed goes on where it was when the same command is given again. See docs/data.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.data.indexed.pair import IndexedPair, merge, split, verify
from mindformers_glm.data.preprocess.handlers import HANDLERS, Handler
from mindformers_glm.errors import ConfigError
from mindformers_glm.log import logger

if TYPE_CHECKING:
    from mindformers_glm.data.preprocess.run import Counts, Engine

_TOKENIZERS = ("PretrainedFromHF", "SentencePiece")
_IGNORED = {  # ModelLink's arguments that change nothing here -> why
    "tokenizer_not_use_fast": "there is one tokenizer",
    "partitions": "one pass writes the final files; --workers says how many processes tokenise",
    "dataset_impl": "pairs are read by mapping",
    "make_vocab_size_divisible_by": "the vocabulary is the tokenizer's",
    "pad_vocab_size_to": "the vocabulary is the tokenizer's",
    "streaming": "files are always read in a stream",
    "cache_dir": "nothing is cached",
    "n_subs": "one pass writes the final files",
}


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    data = p.add_argument_group("input")
    data.add_argument("--input", nargs="+", help="files, folders, patterns: jsonl, json, csv, tsv, txt, parquet, arrow")
    data.add_argument("--json-keys", nargs="+", default=["text"], help="columns to take, a pair each")
    model = p.add_argument_group("tokenizer")
    model.add_argument("--tokenizer-name-or-path", help="folder of the model, its tokenizer.model, or its name")
    model.add_argument("--tokenizer-type", default="PretrainedFromHF", choices=_TOKENIZERS, help="both read it")
    output = p.add_argument_group("output")
    output.add_argument("--output-prefix", help="path and beginning of the files' names")
    output.add_argument("--format", default="modellink", choices=("modellink", "megatron"), help="whose files")
    output.add_argument("--handler-name", default="GeneralPretrainHandler", help=f"of {', '.join(HANDLERS.names())}")
    output.add_argument("--append-eod", action="store_true", help="end every document with the end mark")
    output.add_argument(
        "--seq-length", type=whole(), help="leave out what has so many tokens or more, as ModelLink does"
    )
    output.add_argument("--pack", action="store_true", help="several instructions in one row of --seq-length tokens")
    output.add_argument("--overwrite", action="store_true", help="replace pairs of this name")
    run = p.add_argument_group("work")
    run.add_argument("--workers", type=whole(), default=1, help="processes that tokenise")
    run.add_argument("--log-interval", type=whole(), default=1000, help="documents between two lines")
    run.add_argument("--engine", default="local", choices=("local", "ray"), help="where chunks are tokenised")
    run.add_argument("--address", help="of the Ray cluster; without it, one is started on this machine")
    other = p.add_argument_group("on pairs that exist")
    other.add_argument("--merge", nargs="+", metavar="PREFIX", help="write these pairs, one after the other, as one")
    other.add_argument("--split", nargs=2, metavar=("PREFIX", "PARTS"), help="write a pair in so many parts")
    other.add_argument("--verify", metavar="PREFIX", help="read a whole pair and count it")
    for name in _IGNORED:
        flag = "--" + name.replace("_", "-")
        p.add_argument(flag, nargs="?", const=True, default=None, help=f"accepted; no effect ({_IGNORED[name]})")
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Raises:
        UserError: a word, a file or a record is not as it must be.
    """
    args = parser().parse_args(argv)
    for name, reason in _IGNORED.items():
        if getattr(args, name) is not None:
            logger.info("--%s has no effect here: %s", name.replace("_", "-"), reason)
    if args.verify:
        found = verify(args.verify)
        print("\n".join(f"{name}: {value}" for name, value in found._asdict().items()))
        return
    if not args.output_prefix:
        raise ConfigError("--output-prefix", None, "Name the beginning of the files to write.")
    if args.merge:
        merge(args.merge, args.output_prefix, overwrite=args.overwrite)
        print(f"wrote {args.output_prefix}: {len(IndexedPair(args.output_prefix))} sequences")
        return
    if args.split:
        parts = _parts(args.split[1])
        print("wrote " + ", ".join(split(args.split[0], args.output_prefix, parts, overwrite=args.overwrite)))
        return
    for name in ("input", "tokenizer_name_or_path"):
        if not getattr(args, name):
            raise ConfigError("--" + name.replace("_", "-"), None, "This argument must be given.")
    from mindformers_glm.data.preprocess.run import preprocess  # noqa: PLC0415 - not for --help

    handler = _handler(args)
    counts = preprocess(
        args.input,
        args.output_prefix,
        handler,
        workers=args.workers,
        log_interval=args.log_interval,
        overwrite=args.overwrite,
        engine=_engine(args),
    )
    _report(counts, args.output_prefix, handler)


def _handler(args: argparse.Namespace) -> Handler:
    name = args.handler_name
    if args.format == "megatron":
        if name != "GeneralPretrainHandler":
            raise ConfigError("--format", "megatron", "It writes running text: leave --handler-name out.")
        name = "MegatronHandler"
    from mindformers_glm.models.recognise import tokenizer_from  # noqa: PLC0415 - not for --help

    tokenizer = tokenizer_from(args.tokenizer_name_or_path)
    settings = {"json_keys": args.json_keys, "append_eod": args.append_eod, "seq_length": args.seq_length}
    settings["pack"] = args.pack
    return HANDLERS.get(name, "--handler-name")(tokenizer, **settings)


def _engine(args: argparse.Namespace) -> Callable[[Handler], Engine] | None:
    if args.engine == "local":
        if args.address:
            raise ConfigError("--address", args.address, "It belongs to --engine ray.")
        return None
    from mindformers_glm.data.preprocess.ray_engine import RayEngine  # noqa: PLC0415 - an extra

    return lambda handler: RayEngine(handler, workers=args.workers, address=args.address)


def _report(counts: Counts, prefix: str, handler: Handler) -> None:
    from mindformers_glm.data.preprocess.run import outputs_of  # noqa: PLC0415 - not for --help

    after = f" (went on after {counts.resumed_at})" if counts.resumed_at else ""
    print(f"{counts.records} documents{after}, {counts.tokens} tokens, {counts.tokens_per_second:.0f} tokens/s")
    if counts.left_out and handler.seq_length:
        print(f"{counts.left_out} documents are left out: {handler.seq_length} tokens or more (--seq-length), or empty")
    for path in outputs_of(prefix, handler):
        print(f"  {path}")


def _parts(text: str) -> int:
    try:
        return whole()(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError("--split", text, "Say in how many parts: a whole number from 1.") from error
