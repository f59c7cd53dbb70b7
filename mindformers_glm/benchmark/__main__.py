"""`python -m mindformers_glm.benchmark`."""

import sys

from mindformers_glm.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
