"""`python -m mindformers_glm COMMAND ...`, the same as `mindformers-glm COMMAND ...`."""

import sys

from mindformers_glm.cli.console import main

if __name__ == "__main__":
    sys.exit(main())
