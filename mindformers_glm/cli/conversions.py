"""What the commands that convert share: the plan in words, a dry run, a bar while it is carried out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.plan import ConversionPlan


@contextmanager
def bar(size: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on standard error; what is called with the bytes done."""
    with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1000, file=sys.stderr) as shown:
        yield lambda done: None if shown.update(done) else None


def carried_out(plan: ConversionPlan, *, dry_run: bool, overwrite: bool) -> Path | None:
    """Prints the plan and carries it out; its path, or None for a dry run, which writes nothing."""
    for line in plan.lines():
        print(line)
    if dry_run:
        print("dry run: nothing was written")
        return None
    with bar(plan.size) as progress:
        path = run_plan(plan, overwrite=overwrite, progress=progress)
    print(f"written {path}")
    return path
