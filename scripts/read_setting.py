"""Prints the device target and the output folder that a run of CONFIG with these options will use, one line each."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindformers_glm.config.loader import read_yaml  # noqa: E402
from mindformers_glm.errors import UserError  # noqa: E402


def from_options(options: list[str], names: tuple[str, ...]) -> str | None:
    """The last value given to one of `names`, as `--name value`, `--name=value` or `name=value` after --options."""
    found = None
    for position, option in enumerate(options):
        name, equals, value = option.lstrip("-").partition("=")
        if name in names:
            found = value if equals else next(iter(options[position + 1 :]), None)
    return found


def main(config: str, options: list[str]) -> None:
    """Prefers options to the file; an output folder that nobody names, or that is ./output, is an empty line."""
    settings = read_yaml(config)
    target = from_options(options, ("device_target", "context.device_target"))
    print(target or (settings.get("context") or {}).get("device_target") or "CPU")
    folder = from_options(options, ("output_dir",)) or str(settings.get("output_dir") or "")
    print("" if folder.rstrip("/") in ("", ".", "./output", "output") else folder)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except UserError as fault:
        sys.exit(str(fault))
