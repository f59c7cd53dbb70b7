"""`python -m mindformers_glm.benchmark`."""

import sys

from mindformers_glm.requirements import unmet

if __name__ == "__main__":
    if fault := unmet():
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    from mindformers_glm.benchmark.command import main

    sys.exit(main())
