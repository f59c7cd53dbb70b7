"""A shorter start of our own commands: pydantic looks for no plugins in them, and so a user's plugins are off there."""

from __future__ import annotations

import sys
from types import ModuleType

_LOADER = "pydantic.plugin._loader"  # what finds them; a version without it is left as it is


def leave_out_plugins() -> None:
    """Lets pydantic look for none in this process, as PYDANTIC_DISABLE_PLUGINS=__all__ does.

    It would import what reads the metadata of packages (a tenth of a start), and then read those of all that are
    installed. Not for a library: whoever imports this package keeps their plugins.
    """
    if _LOADER not in sys.modules:
        loader = ModuleType(_LOADER)
        loader.get_plugins = tuple  # type: ignore[attr-defined]
        sys.modules[_LOADER] = loader
