"""Compiles the kernels for this machine's CPU alone: all that a demo or a training here needs, in a fifth of the time.

python scripts/own_kernels.py

`make test` and wheels have every variant (mindformers_glm/ops/kernels/build.py). Standard library only, as there:
setup.py runs this before anything else is installed.
"""

import runpy
import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "mindformers_glm/ops/kernels"


def main() -> int:
    """Builds the best variant that this CPU can run where it is missing; every variant where that one fails."""
    kernels, cpu = (runpy.run_path(str(KERNELS / name)) for name in ("build.py", "cpu.py"))
    own = next(variant for variant in kernels["variants"]() if set(variant.features) <= cpu["features"]())
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
