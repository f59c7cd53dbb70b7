"""Users' own classes: `register_path` names a folder whose modules register them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path


def import_user_classes(folder: str | Path) -> list[str]:
    """Imports every module directly in `folder` and returns their names. They register with mindformers_glm.registry.

    The user names the folder, and its code runs with the user's rights, as any program they start.

    Raises:
        ConfigError: the folder is missing, or a module in it fails.
    """
    path = user_path(folder).resolve()
    if not path.is_dir():
        raise ConfigError("register_path", str(folder), "There is no such folder. Check the path.")
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    names = sorted(file.stem for file in path.glob("*.py") if file.stem.isidentifier() and file.stem != "__init__")
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a user's module raises is theirs to read
            raise ConfigError(f"register_path: {name}.py", str(folder), f"{type(error).__name__}: {error}.") from error
    return names
