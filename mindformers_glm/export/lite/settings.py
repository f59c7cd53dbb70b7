"""How Lite is to run: the device, its context, and MindFormers' `lite.ini`."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.files import read_small, user_path

TARGETS = ("cpu", "ascend")
# Keys of a [<target>_context] section that are properties of Lite's context. The file itself goes to Lite as well,
# which reads [ge_session_options], [ge_graph_options], [common_context] and the rest of [ascend_context] there.
_CONTEXT: Mapping[str, Mapping[str, type]] = {
    "cpu": {"thread_num": int, "inter_op_parallel_num": int, "thread_affinity_mode": int, "precision_mode": str},
    "ascend": {"device_id": int, "rank_id": int, "provider": str, "precision_mode": str},
}


class LiteSettings(NamedTuple):
    """What a runner needs besides the file: `config_path` "" is no file."""

    target: str
    context: dict[str, Any]
    config_path: str = ""


def read_settings(
    *,
    target: str = "cpu",
    config_path: str | Path | None = None,
    threads: int | None = None,
    device_id: int = 0,
    rank_id: int = 0,
) -> LiteSettings:
    """The settings for one model. What is given here wins over the same key in the file.

    Raises:
        ConfigError: another target, or a file that is missing, no INI file, or holds a wrong value.
    """
    target = target.lower()
    if target not in TARGETS:
        raise ConfigError("infer.target", target, f"MindSpore Lite runs on one of {', '.join(TARGETS)}.")
    path = None if not config_path else user_path(config_path).resolve()
    context = _read_context(path, target) if path else {}
    if target == "cpu":
        context["thread_num"] = threads or context.get("thread_num") or len(os.sched_getaffinity(0))
    else:
        context.update(device_id=device_id or context.get("device_id", 0), rank_id=rank_id or context.get("rank_id", 0))
    return LiteSettings(target, context, str(path) if path else "")


def read_pair(config_path: str | None, **given: Any) -> tuple[LiteSettings, LiteSettings]:
    """The settings for the prefill and the increment graph; `config_path` is one file, or two with a comma between."""
    first, _, second = (config_path or "").partition(",")
    first, second = first.strip(), second.strip()
    return read_settings(config_path=first, **given), read_settings(config_path=second or first, **given)


def _read_context(path: Path, target: str) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # the documented way to keep capitals
    try:
        parser.read_string(read_small(path).decode("utf-8-sig"), source=str(path))
    except UnicodeDecodeError as error:
        raise ConfigError("config_path", str(path), f"Byte {error.start} is not UTF-8: save it as UTF-8.") from error
    except (CheckpointError, configparser.Error) as error:
        fix = f"It cannot be read as an INI file ({str(error).splitlines()[0]}): check it."
        raise ConfigError("config_path", str(path), fix) from error
    section, kinds = f"{target}_context", _CONTEXT[target]
    found = dict(parser[section]) if parser.has_section(section) else {}
    try:
        return {name: kinds[name](value) for name, value in found.items() if name in kinds}
    except ValueError as error:
        raise ConfigError(f"config_path: [{section}]", found, f"A number is expected ({error}).") from error
