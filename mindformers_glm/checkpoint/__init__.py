"""Checkpoints by their four jobs: formats (bytes), load (weights under our names), convert, store (of a run).

Code written against an earlier arrangement keeps working: the old name of a module is the module at its new place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOMS = {
    "formats": "blocks dtypes folder mindspore_ckpt pickle_machine safetensors_file tensor_file torch_bin",
    "load": "adapter folders hub model_files names peft resolve run_folder source",
    "convert": "inspection job megatron merge plan verify",
    "store": "reshard resume saved strategy",
}
_MOVED = {f"{__name__}.{name}": f"{__name__}.{room}.{name}" for room, names in _ROOMS.items() for name in names.split()}
_MOVED[f"{__name__}.atomic"] = "mindformers_glm.files"


class _Moved:
    """Finds a module under the name that it had before: finder and loader, by their methods."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed at its own place, and stays the module of that place."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


if not any(type(finder).__name__ == _Moved.__name__ for finder in sys.meta_path):
    sys.meta_path.append(_Moved())
