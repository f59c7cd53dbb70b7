"""Names of components: registered by decorator, or by their place, which is imported when the name is asked for."""

from __future__ import annotations

import sys

import pytest

from mindformers_glm import registry
from mindformers_glm.config import signatures
from mindformers_glm.config.documents import documents
from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import Registry


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "fill", lambda: None)
    (tmp_path / "far_away.py").write_text(
        "class Cosine:\n    def __init__(self, rate: float = 1.0):\n        self.rate = rate\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "far_away", raising=False)
    return Registry("schedule")


def test_a_place_is_imported_when_it_is_asked_for(kinds):
    kinds.add("far_away:Cosine", "cos")
    assert kinds.names() == ["Cosine", "cos"] and "Cosine" in kinds
    assert "far_away" not in sys.modules
    assert kinds.build({"type": "cos", "rate": 0.5}, "lr_schedule").rate == 0.5
    assert kinds.get("Cosine") is kinds.get("cos") is sys.modules["far_away"].Cosine
    (fault,) = kinds.check({"type": "Cosine", "ratte": 1}, "lr_schedule")
    assert "Did you mean 'rate'" in str(fault)


def test_a_place_and_the_class_that_is_there_are_one(kinds):
    kinds.add("far_away:Cosine")
    cosine = kinds.get("Cosine")
    kinds.register()(cosine)
    kinds.add("far_away:Cosine")
    assert kinds.get("Cosine") is cosine
    with pytest.raises(KeyError, match="registered twice"):
        kinds.add("elsewhere:Cosine")
    with pytest.raises(KeyError, match="registered twice"):
        kinds.register("Cosine")(lambda: None)


def test_what_is_unknown_is_named_with_the_nearest(kinds):
    kinds.add("far_away:Cosine")
    with pytest.raises(ConfigError, match="Did you mean 'Cosine'"):
        kinds.get("Cosin")


@pytest.mark.parametrize("name", [[], {}, 7, None])
def test_what_is_no_text_is_no_name(kinds, name):
    assert name not in kinds
    assert [fault.key for fault in kinds.check({"type": name}, "section")] == ["section.type"]


def test_what_components_take_is_written_down_as_they_take_it(root):
    name = f"mindformers_glm/config/{signatures.FILE}"
    said = f"{name} is behind the classes: run python -m mindformers_glm.config.documents"
    assert (root / name).read_text(encoding="utf-8") == documents()[name], said


@pytest.mark.parametrize(
    ("kind", "spec", "fit"),
    [
        ("optimizer", {"type": "AdamW", "beta1": 0.9}, True),
        ("optimizer", {"type": "AdamW", "beta1": float("nan")}, False),
        ("optimizer", {"type": "AdamW", "beta1": "much"}, False),
        ("optimizer", {"type": "AdamW", "beta3": 0.9}, False),
        ("optimizer", {"type": "AdamW", "params": 1}, False),
        ("optimizer", {"type": "Mine"}, False),
        ("optimizer", {"type": ["AdamW"]}, False),
        ("optimizer", {}, False),
        ("callback", {"type": "MFLossMonitor"}, True),
        ("model", {"type": "ChatGLM2ForConditionalGeneration"}, True),
    ],
)
def test_only_what_is_surely_right_is_vouched_for(kind, spec, fit):
    assert signatures.fits(kind, spec) is fit
