"""`python -m mindformers_glm.benchmark`."""

import sys

from mindformers_glm.requirements import require

if __name__ == "__main__":
    require()
    from mindformers_glm.benchmark.command import main

    sys.exit(main())
