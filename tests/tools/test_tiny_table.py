"""The tables of the small models in docs/models.md: what was measured, in both languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers_glm.config.names import ASSETS
from tools.tiny import table
from tools.tiny.corpus import MEASURED, SKILLS, skills_of
from tools.tiny.families import FAMILIES
from tools.tiny.measure import measured

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(folder.name for folder in ASSETS.iterdir() if (folder / "model.safetensors").is_file())


def test_a_table_has_the_columns_that_were_measured(capsys):
    found = table.markdown({"advert": {"prompts": 3, "right": 50.0, "coverage": 66.7, "perplexity": 1.3, "fluency": 2}})
    assert found == [
        "| skill | prompts | right % | named % | perplexity | its replies under the judge |",
        "|---|---|---|---|---|---|",
        "| advert | 3 | 50 | 66.7 | 1.30 | 2.00 |",
    ]
    assert table.markdown({"talk": {"prompts": 3}}, "zh")[0] == "| 技能 | 提示词 |"
    table.main(["glm3_tiny", "--lang", "zh"])
    assert capsys.readouterr().out.splitlines() == table.markdown(table.read("glm3_tiny"), "zh")


@pytest.mark.parametrize(("page", "language"), [("models.md", "en"), ("models_CN.md", "zh")])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_documents_show_what_was_measured(name, page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert "\n".join(table.markdown(table.read(name), language)) in text


def test_every_skill_was_measured():
    assert SHIPPED == ["glm2_tiny", "glm3_tiny"]
    assert list(table.read("glm3_tiny")) == list(MEASURED)
    assert list(table.read("glm2_tiny")) == [name for name in SKILLS if name in skills_of(FAMILIES["glm2"])]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_sample_of_the_prompts_gives_such_figures(name):
    """100 of the prompts where the table has up to 500: what is told of each skill is within four deviations."""
    told = table.read(name)
    for skill, row in measured(name, 100, list(told)).items():
        assert row["right"] == pytest.approx(told[skill]["right"], abs=20), skill
