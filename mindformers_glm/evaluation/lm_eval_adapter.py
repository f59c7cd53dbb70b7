"""lm-evaluation-harness over our engine: the model `mindformers_glm` of lm_eval. Needs the extra `lm-eval`.

    mindformers-glm lm-eval --model_args pretrained=glm3_folder --tasks ceval-valid --num_fewshot 5
    mindformers-glm lm-eval --model_args pretrained=output/law --batch_size 4 --tasks gsm8k --apply_chat_template

The words are those of the command lm_eval. That command itself looks for models among its own alone (its registry, as
of 0.4.13, reads no entry points), so it is started from here; in Python, importing this module registers the model:

    import lm_eval, mindformers_glm.evaluation.lm_eval_adapter
    lm_eval.simple_evaluate(model="mindformers_glm", model_args="pretrained=glm2_tiny", tasks=["arc_easy"])

Keys of --model_args: pretrained (name, folder, file, run or YAML), tokenizer, adapter, lora_alpha, max_length,
max_gen_toks, quantization_bit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from mindformers_glm.assembly.model import load_model
from mindformers_glm.assembly.request import ModelRequest
from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.harness import Harness
from mindformers_glm.generation.generate import engine_of

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    fix = "It needs lm-evaluation-harness: pip install 'mindformers_glm[lm-eval]'."
    raise ConfigError("lm-eval", "mindformers_glm", fix) from error

NAME = "mindformers_glm"
_BATCH_SIZE = 8
_USUAL = {  # of the command, where the harness' own are another model, one sequence at a time, and cuda:0
    ("--model", "-M"): NAME,
    ("--batch_size", "-b"): str(_BATCH_SIZE),
    ("--device",): "cpu",
}
_DEVICES = {None: None, "cpu": "CPU", "ascend": "Ascend", "npu": "Ascend"}


@register_model(NAME)
class MindFormersGLM(LM):
    """A model of ours for the harness. Arguments as in --model_args.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """

    def __init__(
        self,
        pretrained: str = "glm2_tiny",
        *,
        tokenizer: str | None = None,
        adapter: str | None = None,
        lora_alpha: float | None = None,
        batch_size: int | str = _BATCH_SIZE,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        quantization_bit: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        target = str(device).split(":")[0].lower() if device is not None else None
        if target not in _DEVICES:
            raise ConfigError("device", device, "Use cpu or Ascend, or leave it out.")
        size = _BATCH_SIZE if str(batch_size).startswith("auto") else int(batch_size)
        if size < 1:
            raise ConfigError("batch_size", batch_size, f"Use 1 or more, or auto ({_BATCH_SIZE}).")
        changes = {"seq_length": max_length, "quantization_bit": quantization_bit}
        loaded = load_model(
            ModelRequest(
                str(pretrained),
                tokenizer=tokenizer,
                adapter=adapter,
                lora_alpha=lora_alpha,
                device_target=_DEVICES[target],
                changes={name: value for name, value in changes.items() if value is not None},
            )
        )
        self.pretrained, self.batch_size = str(pretrained), size
        self.harness = Harness(
            engine_of(loaded.network),
            loaded.tokenizer,
            batch_size=size,
            max_length=max_length,
            max_gen_toks=int(max_gen_toks),
            shows_bar=sys.stderr.isatty(),
        )

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, is greedy) of each (context, continuation)."""
        return self._kept("loglikelihood", requests, self.harness.loglikelihoods([one.args for one in requests]))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text."""
        return self._kept("loglikelihood_rolling", requests, self.harness.rolling([one.args[0] for one in requests]))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context."""
        return self._kept("generate_until", requests, self.harness.texts([one.args for one in requests]))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation in the model's own format."""
        return self.harness.chat(chat_history, open_reply=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells caches apart by."""
        return f"{self.pretrained}-{self.harness.tokenizer.chat_format}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The name of the model's chat format: its rules are code, not a template."""
        return str(self.harness.tokenizer.chat_format) if chat_template else None

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results."""
        return {"pretrained": self.pretrained, "max_length": self.harness.max_length}

    def _kept(self, kind: str, requests: Sequence[Any], found: list[Any]) -> list[Any]:
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial(kind, request.args, value)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command lm_eval with this model as the usual one."""
    from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415 - reads the command line

    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] not in (["ls"], ["validate"]):
        words = words if words[:1] == ["run"] else ["run", *words]
        for names, usual in _USUAL.items():
            if not any(word in names or word.startswith(f"{names[0]}=") for word in words):
                words[1:1] = [names[0], usual]
    before, sys.argv = sys.argv, ["lm_eval", *words]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0
