"""A program that loads a model, generates one token and tells when; start.py runs it."""

import json
import sys
import time

from mindformers_glm.pydantic_start import leave_out_plugins

leave_out_plugins()  # as `mindformers-glm chat` does

from mindformers_glm.assembly.engine import load_engine  # noqa: E402
from mindformers_glm.assembly.request import ModelRequest  # noqa: E402
from mindformers_glm.errors import UserError  # noqa: E402
from mindformers_glm.generation.config import GenerationConfig  # noqa: E402
from mindformers_glm.tokenizers.chat import Renderer  # noqa: E402

_QUESTION = "\u4f60\u597d"


def main() -> int:
    """Prints the moments on the clock that all processes share."""
    imported = time.monotonic()
    try:
        loaded = load_engine(ModelRequest(sys.argv[1]))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    there = time.monotonic()
    prompt = Renderer(loaded.tokenizer).prompt([], _QUESTION)
    loaded.engine.submit(prompt, GenerationConfig(max_new_tokens=1, do_sample=False)).results()
    moments = {"imported": imported, "loaded": there, "first_token": time.monotonic()}
    print(json.dumps({**moments, "network": type(loaded.engine.network).__name__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
