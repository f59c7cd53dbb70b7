"""`python -m mindformers_glm COMMAND ...`, the same as `mindformers-glm COMMAND ...`."""

import sys

from mindformers_glm.requirements import PYTHONS, require

if sys.version_info[:2] < PYTHONS[0]:  # the oldest cannot even read what is imported next
    require()

from mindformers_glm.cli.console import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
