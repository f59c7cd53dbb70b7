"""The command line: `train`, `prefill`, `decode`, `ops`, `start`, `chart` and `compare`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mindformers_glm.benchmark import against, chart, published, report, start
from mindformers_glm.benchmark.processes import measure
from mindformers_glm.benchmark.settings import (
    FLOATS,
    STEPS,
    Settings,
    Shape,
    available_threads,
    read_dtype,
    read_threads,
    whole,
)
from mindformers_glm.errors import ConfigError, UserError, cut_words

PROGRAM = "python -m mindformers_glm.benchmark"
_SIZES = {
    "train": (4, "seq", 256),
    "prefill": (1, "prompt", 512),
    "decode": (1, "context", 512),
    "ops": (4, "seq", 256),
}
_COMPARED = ("train", "prefill", "decode")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 2 after one line that says what is wrong, 130 after Ctrl-C."""
    try:
        run(argv)
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


def run(argv: Sequence[str] | None = None) -> None:
    """Measures, shows and stores what a command line asks for.

    Raises:
        UserError: the command line is wrong, or what it asks for cannot be done.
    """
    given = vars(build_parser().parse_args(argv))
    command = given.pop("command")
    if command is None:
        raise ConfigError(
            "command", None, f"Use one of {', '.join([*_SIZES, 'start', 'chart', 'compare'])}. See --help."
        )
    if command == "compare":
        _compare(given)
        return
    file = given.pop("json")
    _check_place("--json", file)
    figures = {"chart": _chart, "start": _start}.get(command, _measure)(command, given)
    if file is not None:
        report.write_json(file, figures)


def build_parser() -> argparse.ArgumentParser:
    """The parser; a fault raises ConfigError instead of printing the usage."""
    program = PROGRAM if sys.argv[0].endswith("__main__.py") else None  # otherwise as argparse finds it: as typed
    parser = _Parser(prog=program, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (batch, length_name, length) in _SIZES.items():
        one = commands.add_parser(name, help=f"speed of {name}", allow_abbrev=False)
        _add_network(one)
        one.add_argument(
            "--batch", action=_Read, reader=whole("--batch"), default=batch, help=f"sequences at once ({batch})"
        )
        option = f"--{length_name}"
        one.add_argument(
            option, dest="length", action=_Read, reader=whole(option), default=length, help=f"tokens ({length})"
        )
        one.add_argument(
            "--steps", action=_Read, reader=whole("--steps"), default=STEPS[name], help=f"steps timed ({STEPS[name]})"
        )
        if name == "train":
            one.add_argument("--lora", action="store_true", help="train adapters of rank 8 on q, k and v only")
        if name == "ops":
            one.add_argument(
                "--only", action=_Read, reader=_names, default=(), help="operators, by a part of their names"
            )
        if name in _COMPARED:
            _add_peer(one)
    _add_start(commands.add_parser("start", help="from process start to the first token", allow_abbrev=False))
    _add_compare(commands.add_parser("compare", help="two files of figures, with ratios", allow_abbrev=False))
    _add_chart(commands.add_parser("chart", help="a picture of speed over length or batch", allow_abbrev=False))
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    shape = ",".join(Shape._fields)
    parser.add_argument("--shape", action=_Read, reader=Shape.read, default=Settings.shape, metavar=shape)
    parser.add_argument(
        "--dtype",
        default="float32",
        help=f"{', '.join(FLOATS)}, or a quantisation scheme: int8, int4, w8a8, ... (float32)",
    )
    parser.add_argument(
        "--group_size",
        action=_Read,
        reader=whole("--group_size"),
        help="columns that share a scale (32, or what the scheme has)",
    )
    parser.add_argument(
        "--cache_dtype",
        default="",
        help="of keys and values: float32, float16 or int8 (what users get: docs/speed.md)",
    )
    parser.add_argument(
        "--chunk", action=_Read, reader=whole("--chunk"), default=256, help="tokens of a prompt taken at once (256)"
    )
    _add_all(parser)


def _add_all(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", action=_Read, reader=read_threads, default=available_threads(), help="CPUs to use (all)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")


def _add_peer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", metavar="PEER", help=f"compare with {' or '.join(against.PEERS)}")
    parser.add_argument("--peer_python", metavar="PATH", help="the Python that the peer is installed in")
    parser.add_argument("--peer_script", metavar="PATH", help="the program that runs the peer")
    parser.add_argument("--peer_dtype", metavar="NAME", help="the peer's type, in its own words (the nearest to ours)")
    parser.add_argument(
        "--rounds", action=_Read, reader=whole("--rounds", lowest=2), default=2, help="runs of each, in turn (2)"
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="glm2_tiny", help="a name or folder that AutoModel knows (glm2_tiny)")
    parser.add_argument(
        "--steps", action=_Read, reader=whole("--steps"), default=STEPS["start"], help="warm starts (3)"
    )
    _add_all(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", help="JSON of --json or of test_benchmark.sh, or CSV of the ATB guide")
    parser.add_argument("after", help="the same, measured with the same settings")
    parser.add_argument("--chart", metavar="FILE.png", help="also a picture, of --figure")
    parser.add_argument("--figure", help="what the picture shows (the first figure)")


def _add_chart(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument("--what", metavar="CHART", help=", ".join(chart.CHARTS))
    parser.add_argument("--output", metavar="FILE.png", help="where the picture goes (CHART.png)")
    parser.add_argument("--points", action=_Read, reader=chart.read_points, metavar="N,N,...", help="what is measured")
    parser.add_argument(
        "--batch",
        action=_Read,
        reader=whole("--batch"),
        default=argparse.SUPPRESS,
        help="sequences at once, not for decode_batch",
    )
    parser.add_argument(
        "--context",
        dest="length",
        action=_Read,
        reader=whole("--context"),
        default=argparse.SUPPRESS,
        help=f"for decode_batch ({Settings.length})",
    )
    parser.add_argument("--steps", action=_Read, reader=whole("--steps"), default=argparse.SUPPRESS, help="steps timed")
    parser.add_argument("--lora", action="store_true", help="for train_sequence")
    parser.add_argument(
        "--peer",
        action=_Read,
        reader=chart.read_peer,
        appends=True,
        metavar="'NAME=PROGRAM ... {point} ...'",
        help="another program in the picture, measured in turn; its last line is JSON with tokens_per_s (repeatable)",
    )


def _measure(command: str, given: dict[str, Any]) -> dict[str, Any]:
    peer = _peer(given) if command in _COMPARED else None
    settings = Settings(**{**given, "what": command, "dtype": read_dtype(given["dtype"])})
    if peer is None:
        figures = measure(settings)
        _show(report.lines(figures))
        return figures
    found = against.compare(settings, peer, show=_say)
    _show(against.lines(found))
    return found.plain()


def _peer(given: dict[str, Any]) -> against.Peer | None:
    kind = given.pop("against")
    places = {name: given.pop(f"peer_{name}") for name in ("python", "script", "dtype")}
    rounds = given.pop("rounds")
    if kind is None:
        for name, value in places.items():
            if value is not None:
                raise ConfigError(f"--peer_{name}", value, "It goes with --against torch or --against llama.cpp.")
        return None
    if kind not in against.PEERS:
        raise ConfigError("--against", kind, f"Use {' or '.join(against.PEERS)}.")
    for name in ("python", "script"):
        if places[name] is None:
            raise ConfigError(f"--peer_{name}", None, f"--against {kind} needs the peer's own Python and script.")
    return against.Peer(kind, **places, rounds=rounds)


def _start(_: str, given: dict[str, Any]) -> dict[str, Any]:
    figures = start.measure_start(Settings(what="start", **given))
    _show(start.lines(figures))
    return figures


def _compare(given: dict[str, Any]) -> None:
    before, after = (published.read(given[name]) for name in ("before", "after"))
    _check_place("--chart", given["chart"])
    if given["chart"] is None:
        _show(published.compare(before, after))
        return
    both = [*before, *after]
    figure = given["figure"] or next(iter(both[0].figures))
    _say(f"wrote {published.bars(both, given['chart'], figure=figure)}")


def _chart(_: str, given: dict[str, Any]) -> dict[str, Any]:
    name, output, points, peers = (given.pop(key) for key in ("what", "output", "points", "peer"))
    if name not in chart.CHARTS:
        raise ConfigError("--what", name, f"Use one of {', '.join(chart.CHARTS)}.")
    dtypes = [read_dtype(dtype) for dtype in given.pop("dtype").split(",")]
    runs = [
        (point, chart.settings_of(name, point, {**given, "dtype": dtype}))
        for point in points or chart.CHARTS[name].points
        for dtype in dtypes
    ]
    output = Path(output or f"{name}.png")
    _check_place("--output", output)
    chart.require_matplotlib()
    figures = chart.run_chart(name, runs, show=_say, peers=peers or ())
    _say(f"wrote {chart.draw(figures, output)}")
    return figures


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _check_place(key: str, place: str | Path | None) -> None:
    """Raises ConfigError where a file cannot be: found out before minutes of measuring."""
    if place is None:
        return
    if Path(place).is_dir():
        raise ConfigError(key, str(place), "That is a folder: name a file in it.")
    if not Path(place).absolute().parent.is_dir():
        raise ConfigError(key, str(place), "Its folder does not exist: make it, or name another place.")


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        _say(line)


def _say(line: str) -> None:
    print(line, flush=True)


class _Read(argparse.Action):
    """Stores what `reader` makes of the text. Its ConfigError reaches the user; those of `type` argparse would hide."""

    def __init__(self, *args: Any, reader: Callable[[str], Any], appends: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reader, self.appends = reader, appends

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        read = self.reader(values)
        before = getattr(namespace, self.dest, None) or []
        setattr(namespace, self.dest, [*before, read] if self.appends else read)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError("command line", None, f"{cut_words(message)}. See --help.")
