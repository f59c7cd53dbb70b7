"""Compiles the kernels for this machine's CPU alone: all that a demo or a training here needs, in a fifth of the time.

python scripts/own_kernels.py

`make test` and wheels have every variant (mindformers_glm/ops/kernels/build.py). Standard library only, as there:
setup.py runs this before anything else is installed.
"""

import runpy
import sys
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "mindformers_glm/ops/kernels/build.py"


def flags() -> set[str]:
    """What this CPU can do, in the words of /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    found = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return set(next(found, "").split())


def main() -> int:
    """Builds the best variant that this CPU can run where it is missing; every variant where that one fails."""
    kernels = runpy.run_path(str(BUILD))
    own = next(variant for variant in kernels["variants"]() if set(variant.features) <= flags())
    if kernels["library_path"](own).exists():
        return 0
    try:
        kernels["build"](chosen=(own,))
    except (FileNotFoundError, kernels["BuildError"]):
        return kernels["main"]()  # builds whatever else can be built, or says why nothing can
    print(f"kernels: built {own.name}, for this CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
