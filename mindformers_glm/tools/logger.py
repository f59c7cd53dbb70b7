"""The import path of MindFormers for the log."""

from mindformers_glm.log import logger


def get_logger(logger_name: str = "mindformers", **settings: object) -> object:
    """The one logger of the package; where it writes is set by the run."""
    return logger


__all__ = ["get_logger", "logger"]
