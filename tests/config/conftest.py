"""A small training configuration (small.yaml), and a way to write it with changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mindformers_glm import registry
from mindformers_glm.config.overrides import apply, parse_overrides

SMALL = Path(__file__).with_name("small.yaml")


@pytest.fixture(autouse=True)
def empty_registries(monkeypatch):
    """Nothing is registered, whatever other tests have imported: a test registers what it needs."""
    for filling in ("fill", "fill_light"):
        monkeypatch.setattr(registry, filling, lambda: None)
    for item in vars(registry).values():
        if isinstance(item, registry.Registry):
            monkeypatch.setattr(item, "factories", {})


@pytest.fixture
def small() -> dict:
    """A complete fine-tuning configuration with an evaluation dataset."""
    return yaml.safe_load(SMALL.read_text())


@pytest.fixture
def written(tmp_path, small):
    """Writes the small configuration, changed by words such as `a.b=v`, and returns its path."""

    def write(*changes: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(apply(small, parse_overrides(changes)), sort_keys=False), encoding="utf-8")
        return path

    return write
