"""From a tool of this folder to the command that it stands for."""

import sys


def run(name):
    """Ends the program with the exit status of `mindformers-glm NAME`, given the same words."""
    require()
    from mindformers_glm.cli.console import main  # noqa: PLC0415 - told in one line where it is not installed

    sys.exit(main([name, *sys.argv[1:]]))


def require():
    """Ends the program with one line where mindformers_glm is not installed, or this Python does not fit it."""
    try:
        from mindformers_glm.requirements import require as met  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "mindformers_glm":
            raise
        cure = "`make test` in the checkout sets up .venv; then `. .venv/bin/activate`, or: pip install mindformers_glm"
        print(f"error: mindformers_glm is not installed for {sys.executable}. {cure}", file=sys.stderr)
        sys.exit(2)
    met()
