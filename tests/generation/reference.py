"""A network with the weights of a golden folder of the official models, and what the official code gave."""

from __future__ import annotations

import json

import numpy as np

from mindformers_glm.checkpoint import load
from mindformers_glm.checkpoint.load import source
from mindformers_glm.generation import engine_of
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration


class Reference:
    def __init__(self, folder):
        self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.expected = np.load(folder / "expected.npz")
        config = ChatGLM2Config.from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self.model = ChatGLM2ForConditionalGeneration(config)
        load.load_into(self.model, source.read_weights(folder / "model.safetensors"))
        self.engine = engine_of(self.model)
        self.prompts = [case["input_ids"] for case in self.meta["cases"]]
        self.queries = [(case["query"], case["history"]) for case in self.meta["cases"]]

    def reply(self, row: int) -> list[int]:
        """The 24 greedy tokens after a prompt."""
        return self.expected[f"greedy_{row}"][len(self.prompts[row]) :].tolist()
