"""lm-evaluation-harness with one of these models: the words of the command lm_eval, whose model is ours.

    mindformers-glm lm-eval --model_args pretrained=MODEL --tasks ceval-valid --num_fewshot 5 --output_path OUT
    mindformers-glm lm-eval --model_args pretrained=MODEL --batch_size 4 --tasks gsm8k --apply_chat_template

Keys of --model_args: pretrained, tokenizer, adapter, lora_alpha, max_length, max_gen_toks, quantization_bit.
Needs the extra: pip install 'mindformers_glm[lm-eval]'. The harness fetches its tasks from the
network; without it, `mindformers-glm evaluate` measures C-Eval, CMMLU and MMLU from local files in the same words.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the harness; without it only --help is answered.

    Raises:
        ConfigError: the harness is not installed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--help"], ["-h"]):
        print(__doc__)
        if importlib.util.find_spec("lm_eval") is None:
            return 0
    os.environ.setdefault("GLOG_v", "3")
    from mindformers_glm.evaluation.lm_eval_adapter import main as run  # noqa: PLC0415 - brings what computes

    return run(words)
