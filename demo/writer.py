"""Writes advertisements with the packaged weights, and with fine-tuned ones, while you watch."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not part of the show

from demo.screen import Typing  # noqa: E402
from mindformers_glm import runtime  # noqa: E402
from mindformers_glm.auto import AutoModel, AutoTokenizer  # noqa: E402
from mindformers_glm.generation import chat  # noqa: E402, F401 - provides model.stream_chat


class Writer:
    """One network; a fine-tuned one takes the place of the packaged one when it is asked for."""

    def __init__(self) -> None:
        runtime.set_up({"mode": 0, "device_target": "CPU"}, seed=0)
        self.model = AutoModel.from_pretrained("glm3_tiny")
        self.tokenizer = AutoTokenizer.from_pretrained("glm3_tiny")

    def load(self, run: Path) -> None:
        """Takes what a fine-tuning run left, its adapter included."""
        self.model = AutoModel.from_pretrained(str(run))

    def write(self, content: str) -> str:
        """The answer to `content`, also typed on the screen as it comes."""
        typing, text = Typing(), ""
        for turn in self.model.stream_chat(self.tokenizer, content, do_sample=False, max_length=256):
            typing.add(turn.response[len(text) :])
            text = turn.response
        typing.end()
        return text
