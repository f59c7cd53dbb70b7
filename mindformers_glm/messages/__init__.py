"""What is said to people, in English or in Chinese.

The source says everything in English. `zh_CN.po` beside this file holds a Chinese text for each message: its id is the
English text, with a name in braces for each value. `say` fills such a text; `told` finds the message that a finished
English line was made of, so that errors are raised in plain English and translated where they are shown. English costs
nothing; the catalogue is read when the first Chinese text is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "MINDFORMERS_GLM_LANG"
ENGLISH, CHINESE = "en", "zh"
CATALOGUE = Path(__file__).with_name("zh_CN.po")
_PLAIN = ("C", "POSIX")
_DEMO = "demo/"  # its texts are said, never raised: no finished line is looked for among them
_chosen: list[str] = []  # by an option of the command line


def choose(name: str | None) -> None:
    """Makes `name` ("en" or "zh") the language of this process, whatever the environment says; None takes it back."""
    _chosen[:] = [] if name is None else [name]


def language(environment: Mapping[str, str] | None = None) -> str:
    """Code zh or en: what was chosen, else MINDFORMERS_GLM_LANG, else the locale as gettext reads it, else English."""
    if _chosen:
        return _chosen[-1]
    return asked(environment) or _of_locale(os.environ if environment is None else environment)


def asked(environment: Mapping[str, str] | None = None) -> str | None:
    """What MINDFORMERS_GLM_LANG asks for, None where it is not set or names another language."""
    named = (os.environ if environment is None else environment).get(VARIABLE, "").lower()
    return next((name for name in (CHINESE, ENGLISH) if _is(named, name)), None)


def say(text: str, /, **values: Any) -> str:
    """A message of the catalogue in the language of this process, its braces filled with `values`."""
    if language() == CHINESE:
        text = _catalogue().get(text, text)
    return text.format(**values)


def told(line: str) -> str:
    """A finished English line in the language of this process; what is in no catalogue stays English."""
    return line if language() == ENGLISH or not line.strip() else _matcher().told(line)


def _is(named: str, name: str) -> bool:
    return named == name or named.startswith((f"{name}_", f"{name}-", f"{name}."))


def _of_locale(environment: Mapping[str, str]) -> str:
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((environment[name] for name in names if environment.get(name)), "")
    if locale.partition(".")[0] in ("", *_PLAIN):
        return ENGLISH
    first = environment.get("LANGUAGE", "").partition(":")[0] or locale
    return CHINESE if _is(first.lower(), CHINESE) else ENGLISH


@cache
def _catalogue(*, package_alone: bool = False) -> dict[str, str]:
    from mindformers_glm.messages.po import read  # noqa: PLC0415 - English reads no catalogue

    entries = [entry for entry in read(CATALOGUE) if entry.is_shown and entry.translated]
    return {entry.text: entry.translated for entry in entries if not (package_alone and entry.place.startswith(_DEMO))}


@cache
def _matcher() -> Any:
    from mindformers_glm.messages.matching import Matcher  # noqa: PLC0415 - as above

    return Matcher(_catalogue(package_alone=True))
