"""From a YAML file and a command line to a checked RunConfig."""

from mindformers_glm.config.arguments import Command, parse_command_line, read_command_line
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.overrides import parse_overrides
from mindformers_glm.config.run import RunConfig, load_config, make_config

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
