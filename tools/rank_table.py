"""Rank tables: the module of the package, loaded by its path, so that a bare Python 3.7 needs nothing installed."""

import importlib.util
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent / "mindformers_glm" / "conformance" / "rank_table.py"
if not _HOME.is_file():
    sys.exit(
        f"rank_table: {_HOME} is missing. Copy the folder mindformers_glm beside tools, or use the whole checkout."
    )
_spec = importlib.util.spec_from_file_location(__name__, str(_HOME))
_module = importlib.util.module_from_spec(_spec)
sys.modules[__name__] = _module  # whoever imports this file gets that one
_spec.loader.exec_module(_module)
