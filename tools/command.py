"""From a tool of this folder to the command that it stands for."""

import sys


def run(name):
    """Ends the program with the exit status of `mindformers-glm NAME`, given the same words."""
    try:
        from mindformers_glm.cli.console import main  # noqa: PLC0415 - told in one line where it is not installed
    except ModuleNotFoundError as error:
        if error.name != "mindformers_glm":
            raise
        cure = "`make test` in the checkout sets up .venv; then `. .venv/bin/activate`, or: pip install mindformers_glm"
        sys.exit(f"error: mindformers_glm is not installed for {sys.executable}. {cure}")
    sys.exit(main([name, *sys.argv[1:]]))
