"""Command lines: `mindformers-glm COMMAND`, run_mindformer.py and tools/*.py are thin callers of what lies here."""

from mindformers_glm.cli.report import report
from mindformers_glm.cli.run import main, run

__all__ = ["main", "report", "run"]
