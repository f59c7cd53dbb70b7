"""What an earlier run of a demo has trained: kept beside the new one, which gets a folder without other weights."""

from __future__ import annotations

import itertools
from pathlib import Path

from demo.screen import note
from mindformers_glm.messages import say


def set_aside(folder: Path) -> Path | None:
    """Renames a folder of a run that holds weights to the first free NAME_earlier_N; None where there is none."""
    if not any(folder.glob("checkpoint_network/**/*.ckpt")):
        return None
    free = (folder.with_name(f"{folder.name}_earlier_{number}") for number in itertools.count(1))
    place = next(place for place in free if not place.exists())
    folder.rename(place)
    note(say("what an earlier run has trained is in {folder} now", folder=place))
    return place
