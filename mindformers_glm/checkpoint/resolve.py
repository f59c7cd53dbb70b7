"""Where the weights of a name are: a file or folder as given, or what a registered model name stands for."""

from __future__ import annotations

import difflib
from pathlib import Path

from mindformers_glm.config.names import ASSETS, DOWNLOAD_DIR, MODEL_NAMES
from mindformers_glm.errors import CheckpointError


def resolve_weights(name: str | Path) -> Path:
    """The file or folder that `name` means: a path, else a registered model that ships with the package or was
    downloaded before. Nothing is downloaded here.

    Raises:
        CheckpointError: it is neither; says where was looked and how to get the weights.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if str(name) in MODEL_NAMES:
        places = known_places(str(name))
        found = next((place for place in places if place.exists()), None)
        if found:
            return found
        hub = MODEL_NAMES[str(name)].hub_id
        looked = " and ".join(str(place) for place in places)
        fix = f"Looked for {looked}. Put the official {hub} folder or a converted .ckpt there, or give its path"
        raise CheckpointError(str(name), "the weights of this model are not on this machine", fix + ".")
    near = difflib.get_close_matches(str(name), MODEL_NAMES, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Registered names: {', '.join(sorted(MODEL_NAMES))}."
    raise CheckpointError(str(name), "there is no such file, folder or registered model", hint)


def known_places(name: str) -> list[Path]:
    """Where the weights of a registered model may lie, best first."""
    family = DOWNLOAD_DIR / MODEL_NAMES[name].family
    return [ASSETS / name, family / f"{name}.ckpt", family / name]
