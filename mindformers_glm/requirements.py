"""What this package needs of the Python that runs it. Any Python 3 can read this file, with nothing installed."""

import sys
from importlib.util import find_spec

PYTHONS = ((3, 10), (3, 11))
# module -> the name under which it is installed. MindSpore is looked for where it is used: tokenizers and the runtime
# of MindSpore Lite work without.
PACKAGES = {
    "numpy": "numpy",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "sentencepiece": "sentencepiece",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
}
_CURE = (
    "In a checkout `make test` sets up .venv, and `. .venv/bin/activate` makes it the Python in use; elsewhere: {cure}"
)


def unmet(version=tuple(sys.version_info[:3]), packages=None):  # type: ignore[no-untyped-def]
    """One line that says which requirement this Python does not meet and what to do; None when it meets all."""
    written = ".".join(map(str, version))
    if tuple(version[:2]) not in PYTHONS:
        return "mindformers_glm needs Python 3.10 or 3.11, and {python} is Python {version}. {cure}".format(
            python=sys.executable, version=written, cure=_CURE.format(cure="install it with one of these.")
        )
    missing = [name for module, name in (packages or PACKAGES).items() if find_spec(module) is None]
    if missing:
        return (
            "mindformers_glm: {names} {verb} not installed for {python} "
            "(Python {version}; 3.10 or 3.11 is needed). {cure}"
        ).format(
            names=", ".join(missing),
            verb="is" if len(missing) == 1 else "are",
            python=sys.executable,
            version=written,
            cure=_CURE.format(cure="pip install mindformers_glm."),
        )
    return None


def require():  # type: ignore[no-untyped-def]
    """Ends the program with one line where a requirement is not met."""
    fault = unmet()
    if fault:
        sys.stderr.write("error: " + fault + "\n")
        sys.exit(2)
