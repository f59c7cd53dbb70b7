"""A state that is known number by number, written by every form and read by every other. Run by launched.py, two ranks.

argv: folder. Rank R leaves folder/pairs.R.json: "form>other" -> names of tensors that came out other than they went in.
"one" stands for a process alone: both ranks do its work, each in a folder of its own.
"""

from __future__ import annotations

import itertools
import json
import sys
import zlib
from pathlib import Path

import numpy as np
from optimizer_resume import DIVISIONS, Run, weights

from mindformers_glm import runtime
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.optim import load_optimizer, optimizer_arrays
from mindformers_glm.parallel.collectives import sum_over
from mindformers_glm.parallel.mesh import Axis

STEP = 3


def known() -> dict[str, np.ndarray]:
    """Whole weights and moments, each tensor drawn from its name."""
    found = {}
    for name, value in weights().items():
        for prefix in ("", "adam_m.", "adam_v."):
            rng = np.random.default_rng(zlib.crc32(f"{prefix}{name}".encode()))
            found[prefix + name] = rng.random(value.shape, np.float32)
    return found


def write(folder: Path, form: str, whole: dict[str, np.ndarray]) -> Path:
    """The files of a run of this form that holds the state; returns this rank's."""
    run = Run(folder / form / (str(runtime.rank()) if form == "one" else ""), "AdamW", form)
    local = run.ranks.local(whole, run.network)
    load_into(run.network, {name: local[name] for name in run.arrays()})
    moments = optimizer_arrays(run.state.optimizer)
    load_optimizer(run.state.optimizer, {**moments, **{n: local[n] for n in local if n in moments}}, place=form)
    run.state.done = run.state.updates = STEP
    return run.save()


def wrong(folder: Path, form: str, other: str, path: Path, whole: dict[str, np.ndarray]) -> list[str]:
    """Tensors that a run of `other` does not hold as they were, after it has read what `form` wrote."""
    run = Run(folder / f"{form}-{other}", "AdamW", other)
    run.resume(path)
    local, held = run.ranks.local(whole, run.network), {**run.arrays(), **optimizer_arrays(run.state.optimizer)}
    names = [name for name in local if name in held]
    assert len(names) == len(list(local)) and run.state.updates == STEP
    return [name for name in names if held[name].tobytes() != local[name].tobytes()]


if __name__ == "__main__":
    runtime.set_up({"device_target": "CPU"}, seed=3, use_parallel=True)
    place, state, result = Path(sys.argv[1]), known(), {}
    files = {form: write(place, form, state) for form in DIVISIONS}
    sum_over(Axis("all", (0, 1), runtime.rank()), np.ones(1))  # all files are there
    for first, second in itertools.permutations(DIVISIONS, 2):
        result[f"{first}>{second}"] = wrong(place, first, second, files[first], state)
    Path(place, f"pairs.{runtime.rank()}.json").write_text(json.dumps(result))
