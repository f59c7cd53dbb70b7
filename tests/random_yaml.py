"""A YAML of a small ChatGLM3 whose weights are random: the same in every run, and whatever it says is noise."""

from __future__ import annotations

from pathlib import Path

from mindformers_glm.config.names import CONFIGS_DIR

TEXT = """base_config: {base}
load_checkpoint: ''
allow_random_weights: True
model:
  model_config:
    checkpoint_name_or_path: ''
"""


def random_glm3(folder: Path) -> Path:
    """Writes it: the shape and the vocabulary of glm3_tiny, none of its weights."""
    path = folder / "random_glm3.yaml"
    path.write_text(TEXT.format(base=CONFIGS_DIR / "tiny/run_glm3_tiny.yaml"), encoding="utf-8")
    return path
