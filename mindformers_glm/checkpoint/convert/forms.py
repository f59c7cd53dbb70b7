"""The forms that a conversion writes, and the naming of the weights in each. Light: `--help` lists them."""

from __future__ import annotations

FORMS = {
    "ours": "mf10",
    "ours-panels": "mf10",
    "hf": "hf",
    "transformers": "native",
    "mcore": "mcore",
    "mindformers": "mf10",
    "mindformers-1.2": "mf12",
    "mindformers-1.5": "mf15",
    "peft": "mf10",
    "official-int4": "hf",
    "official-int8": "hf",
    "gptq": "hf",
}

OURS = ("ours", "ours-panels")  # folders with a config.yaml of ours
PANELS = "ours-panels"
