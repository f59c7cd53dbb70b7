"""What a tracker is: it hears of a run's beginning, of figures at a step, and of the end.

A further one is a file beside this one with a class that is registered: `@TRACKERS.register("name")`, three methods and
the package it needs. `report_to: [name]` of the YAML then finds it (train/callbacks/tracking.py drives it). Nothing
here needs MindSpore.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import TRACKERS

Status = Literal["finished", "interrupted", "failed"]


class Begun(NamedTuple):
    """A run that begins: its folder, name, and settings as flat `a.b: value`."""

    output_dir: Path
    name: str
    settings: Mapping[str, Any]


class Tracker(abc.ABC):
    """Base of the trackers. Settings are keyword arguments of the class; nothing is sent unless `mode: online`.

    Raises:
        ConfigError: the package is not installed; the extra is named.
    """

    package: ClassVar[str]
    extra: ClassVar[str]

    def __init__(self, *, collect_freq: int = 1) -> None:
        if int(collect_freq) < 1:
            raise ConfigError(f"report_to.{type(self).__name__}.collect_freq", collect_freq, "Use 1 or more.")
        self.collect_freq = int(collect_freq)
        if importlib.util.find_spec(self.package) is None:
            fix = f"It needs {self.package}: pip install 'mindformers_glm[{self.extra}]', or take it out of the list."
            raise ConfigError("report_to", type(self).__name__, fix)

    def module(self) -> Any:
        """The package, imported."""
        return importlib.import_module(self.package)

    @abc.abstractmethod
    def begin(self, run: Begun) -> None:
        """Opens the run."""

    @abc.abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes figures such as `loss` or `eval/PPL` of a step."""

    @abc.abstractmethod
    def end(self, status: Status) -> None:
        """Closes the run; what is written until then stays whatever comes."""


class OnlineTracker(Tracker):
    """One that can send: `mode` is offline (files below the run's folder, nothing leaves the machine) or online."""

    def __init__(
        self,
        *,
        project: str = "mindformers_glm",
        run_name: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        collect_freq: int = 1,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ConfigError(f"report_to.{type(self).__name__}.mode", mode, "Use offline or online.")
        super().__init__(collect_freq=collect_freq)
        self.project, self.run_name, self.mode = project, run_name, mode


def build_trackers(specs: Sequence[Mapping[str, Any] | str]) -> list[Tracker]:
    """The trackers that `report_to` lists, by name or as mappings with `type`.

    Raises:
        ConfigError: an unknown name or argument, or a package that is not installed.
    """
    given = [{"type": spec} if isinstance(spec, str) else spec for spec in specs]
    return [TRACKERS.build(spec, f"report_to.{index}") for index, spec in enumerate(given)]
