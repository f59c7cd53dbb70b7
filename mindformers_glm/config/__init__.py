"""From a YAML file and a command line to a checked RunConfig. A name is imported when it is used first."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindformers_glm.config.arguments import Command, parse_command_line, read_command_line
    from mindformers_glm.config.loader import read_yaml
    from mindformers_glm.config.overrides import parse_overrides
    from mindformers_glm.config.run import RunConfig, load_config, make_config

_HOMES = {
    "Command": "arguments",
    "RunConfig": "run",
    "load_config": "run",
    "make_config": "run",
    "parse_command_line": "arguments",
    "parse_overrides": "overrides",
    "read_command_line": "arguments",
    "read_yaml": "loader",
}

__all__ = [
    "Command",
    "RunConfig",
    "load_config",
    "make_config",
    "parse_command_line",
    "parse_overrides",
    "read_command_line",
    "read_yaml",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
