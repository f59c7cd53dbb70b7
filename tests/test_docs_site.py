"""The documents as a site: it builds strictly, with every page in the menu and every link leading somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_glm.cli.commands import COMMANDS


def build(folder: Path, site: Path) -> subprocess.CompletedProcess:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_builds(root, tmp_path):
    done = build(root, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "AutoModel.from_pretrained" in re.sub("<[^>]*>", "", (tmp_path / "api.html").read_text(encoding="utf-8"))
    for page in tmp_path.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="https?://fonts', text), page.name
    assert {path.stem for path in (root / "docs").glob("*.md")} <= {path.stem for path in tmp_path.glob("*.html")}


@pytest.mark.slow
@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](data.md#no-such-heading)"])
def test_a_link_that_leads_nowhere_ends_the_build(root, tmp_path, link):
    shutil.copytree(root / "docs", tmp_path / "docs")
    shutil.copy(root / "mkdocs.yml", tmp_path)
    (tmp_path / "mindformers_glm").symlink_to(root / "mindformers_glm")
    with (tmp_path / "docs/faq.md").open("a", encoding="utf-8") as file:
        file.write(f"\n{link}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and "faq.md" in done.stderr


def test_the_page_of_commands_lists_all(root):
    rows = re.findall(r"\| `([\w-]+)` \| (.*) \|", (root / "docs/commands.md").read_text(encoding="utf-8"))
    assert rows == [(name, command[1]) for name, command in COMMANDS.items()]


def test_pages_of_questions_have_as_many(root):
    counts = {(root / "docs" / name).read_text(encoding="utf-8").count("\n## ") for name in ("faq.md", "faq_CN.md")}
    assert counts == {16}
