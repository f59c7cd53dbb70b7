"""A program that loads a model, generates one token and tells when; start.py runs it."""

import json
import sys
import time

from mindformers_glm.auto import AutoModel, AutoTokenizer
from mindformers_glm.errors import UserError
from mindformers_glm.tokenizers import Renderer

_QUESTION = "\u4f60\u597d"


def main() -> int:
    """Prints the moments on the clock that all processes share."""
    imported = time.monotonic()
    try:
        model, tokenizer = AutoModel.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    loaded = time.monotonic()
    prompt = Renderer(tokenizer).prompt([], _QUESTION)
    model.generate(prompt, max_new_tokens=1, do_sample=False)
    print(json.dumps({"imported": imported, "loaded": loaded, "first_token": time.monotonic()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
