"""A process that computes checks on the device: `python -m mindformers_glm.conformance.worker FOLDER DEVICE NAME...`.

A name is check:kind. For each it leaves FOLDER/NAME.npz with what was found and wanted, or FOLDER/NAME.txt with the
reason why not, and prints the name before it begins: whoever waits knows which one a process died of.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import numpy as np

from mindformers_glm.conformance.check import Answer, Check, Skipped, all_checks
from mindformers_glm.files import write_text

SKIPPED, FAILED = "skipped", "failed"
FAULT = "GLM_CONFORMANCE_FAULT"  # environment variable: a fault to put in, see faults.py


def compute(check: Check, kind: str) -> Answer | tuple[str, str]:
    """What a check gives in this process, or (skipped or failed, why)."""
    try:
        return check.run(kind)
    except Skipped as reason:
        return SKIPPED, str(reason)
    except Exception as error:  # noqa: BLE001 - whatever a device's operator raises is this check's result
        where = traceback.extract_tb(error.__traceback__)[-1]
        lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
        told = "; ".join(lines[:3]) or "without a word"
        return FAILED, f"{type(error).__name__}: {told} ({Path(where.filename).name}:{where.lineno})"


def save(path: Path, answer: Answer) -> None:
    """Writes an answer; it appears whole or not at all."""
    arrays = {f"found/{name}": value for name, value in answer.found.items()}
    arrays |= {f"wanted/{name}": value for name, value in answer.wanted.items()}
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, note=np.array(answer.note), **arrays)
    os.replace(temporary, path)


def load(path: Path) -> Answer:
    """What `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        found, wanted = (
            {name.partition("/")[2]: file[name] for name in file.files if name.startswith(side)}
            for side in ("found/", "wanted/")
        )
        return Answer(found, wanted, note=str(file["note"]))


def main() -> None:
    """See the module."""
    from mindformers_glm import runtime  # noqa: PLC0415 - starts MindSpore
    from mindformers_glm.conformance import faults  # noqa: PLC0415

    folder, target, *names = sys.argv[1:]
    ranks = runtime.rank_size()
    runtime.set_up({"mode": 0, "device_target": target}, seed=0, use_parallel=ranks > 1)
    known = all_checks()
    with faults.injected(os.environ.get(FAULT, "")):
        for name in names:
            check, _, kind = name.partition(":")
            reports = runtime.rank() == 0
            if reports:
                print(name, flush=True)
            result = compute(known[check], kind)
            if not reports:
                continue
            if isinstance(result, Answer):
                save(Path(folder, f"{name}.npz"), result)
            else:
                write_text(Path(folder, f"{name}.txt"), "\n".join(result))
        if ranks > 1:
            from mindformers_glm.conformance.checks.ranks import meet  # noqa: PLC0415

            meet()


if __name__ == "__main__":
    main()
