"""Figures of several measurements beside each other: our JSON, Cambricon's JSON, the ATB guide's CSV.

Units, the same here and in the training log: tokens/s/p are the tokens of all batches in a second, padding included,
over the number of processes (devices); samples/s/p likewise; ms per step is the median of whole steps with their data;
MFU is the share of the machine's own float32 matrix speed (`matrix_share`), operations counted as in work.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.benchmark.lengths import PAIR_COLUMNS
from mindformers_glm.errors import ConfigError, DataError
from mindformers_glm.files import user_path

# Of each kind: what must be equal for two measurements to be comparable, and the figures that are compared.
_OWN = ("what", "shape", "batch", "length", "dtype", "lora", "cache_dtype", "group_size")
_OWN_FIGURES = ("tokens_per_s", "ms_per_token", "ms_median", "peak_bytes", "memory_share", "matrix_share")
_CAMBRICON = ("net", "batch_size", "cards", "precision", "DPF_mode", "dataset")
_CAMBRICON_FIGURES = ("batch_time_avg", "hardware_time_avg", "throughput")


class Measurement(NamedTuple):
    """One line of figures. `name` is the file (and the line of a CSV)."""

    name: str
    kind: str
    settings: dict[str, Any]
    figures: dict[str, float]
    about: dict[str, Any]


def read(path: str | Path) -> list[Measurement]:
    """The measurements of a file: a JSON of ours or of Cambricon's benchmark, or the CSV of the ATB guide.

    Raises:
        DataError: it cannot be read, or is none of these.
    """
    place = user_path(path)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(place), "it cannot be read", "Name a JSON or CSV of figures") from error
    if text.lstrip().startswith("{"):
        return [_of_json(place, text)]
    lines = text.splitlines()
    if not lines or [cell.strip() for cell in lines[0].split(",")] != list(PAIR_COLUMNS):
        fix = "Give a JSON of `benchmark --json` or of test_benchmark.sh, or a CSV of --mode performance"
        raise DataError(str(place), "these are no figures that are known", fix)
    return [_of_row(f"{place.name}:{number}", row) for number, row in enumerate(csv.reader(lines[1:]), 2) if row]


def compare(before: Sequence[Measurement], after: Sequence[Measurement]) -> Iterator[str]:
    """Lines that say each figure of both, and their ratio.

    Raises:
        ConfigError: the settings differ, which are named, or a measurement has no partner.
    """
    if len(before) != len(after):
        fix = f"The first has {len(before)} measurements and the second {len(after)}."
        raise ConfigError("compare", after[0].name if after else "nothing", fix)
    for old, new in zip(before, after, strict=True):
        differ = [name for name in old.settings if old.settings[name] != new.settings.get(name)]
        if old.kind != new.kind or differ:
            told = ", ".join(f"{name} {old.settings[name]} and {new.settings.get(name)}" for name in differ)
            fix = f"It was measured otherwise than {old.name}: {told or f'{old.kind} and {new.kind}'}."
            raise ConfigError("compare", new.name, fix)
        yield f"{old.name} -> {new.name}: " + ", ".join(f"{name} {value}" for name, value in old.settings.items())
        for name, value in old.figures.items():
            if name in new.figures:
                ratio = new.figures[name] / value if value else float("nan")
                yield f"  {name:<28}{value:>14.4g}{new.figures[name]:>14.4g}{ratio:>9.3f} x"


def bars(measurements: Sequence[Measurement], path: str | Path, *, figure: str) -> Path:
    """A picture with a bar for each measurement that has `figure`; returns its path.

    Raises:
        ConfigError: none has it, or matplotlib is not installed.
    """
    shown = [(item.name, item.figures[figure]) for item in measurements if figure in item.figures]
    if not shown:
        known = sorted({name for item in measurements for name in item.figures})
        raise ConfigError("--figure", figure, f"Use one of {', '.join(known)}.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("--chart", str(path), "It needs matplotlib: pip install 'mindformers_glm[plot]'.") from error
    picture = Figure(figsize=(8, 1 + 0.5 * len(shown)), layout="constrained")
    canvas = FigureCanvasAgg(picture)
    axes = picture.subplots()
    axes.barh([name for name, _ in shown][::-1], [value for _, value in shown][::-1])
    axes.set_xlabel(figure)
    canvas.print_png(str(user_path(path)))
    return user_path(path)


def _of_json(place: Path, text: str) -> Measurement:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(str(place), f"it is no JSON ({error})", "Copy it again") from error
    for kind, settings, figures in (("benchmark", _OWN, _OWN_FIGURES), ("Cambricon", _CAMBRICON, _CAMBRICON_FIGURES)):
        if settings[0] in values and figures[0] in values:
            return _measurement(place.name, kind, values, settings, figures)
    raise DataError(str(place), "these are no figures that are known", "Give one of `benchmark --json`, not a chart's")


def _measurement(
    name: str, kind: str, values: Mapping[str, Any], settings: Sequence[str], figures: Sequence[str]
) -> Measurement:
    found = {key: float(values[key]) for key in figures if isinstance(values.get(key), (int, float))}
    about = {key: value for key, value in values.items() if key not in (*settings, *figures)}
    return Measurement(name, kind, {key: values.get(key) for key in settings}, found, about)


def _of_row(name: str, row: Sequence[str]) -> Measurement:
    try:
        numbers = [float(cell) for cell in row]
    except ValueError as error:
        raise DataError(name, "a cell is no number", "Copy the file again") from error
    if len(numbers) != len(PAIR_COLUMNS):
        raise DataError(name, f"{len(numbers)} cells, not {len(PAIR_COLUMNS)}", "Copy the file again")
    values = dict(zip(PAIR_COLUMNS, numbers, strict=True))
    return _measurement(name, "ATB", values, PAIR_COLUMNS[:3], PAIR_COLUMNS[3:])
