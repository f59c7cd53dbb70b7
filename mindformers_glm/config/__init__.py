"""From a YAML file and a command line to a checked RunConfig."""

from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.overrides import parse_overrides
from mindformers_glm.config.run import RunConfig, load_config, make_config

__all__ = ["RunConfig", "load_config", "make_config", "parse_overrides", "read_yaml"]
