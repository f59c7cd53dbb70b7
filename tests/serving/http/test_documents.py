"""What stands beside the server agrees with it: dashboard, documents, launch script."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from mindformers_glm.cli.serve import parser
from mindformers_glm.serving.http.metrics import COUNTERS, GAUGES, HISTOGRAMS


def test_the_dashboard_asks_for_figures_that_there_are(root):
    board = json.loads((root / "docs/grafana.json").read_text())
    known = {*GAUGES, *COUNTERS, *(f"{name}_bucket" for name in HISTOGRAMS)}
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"(?:vllm|glm):\w+", target["expr"])
    }
    assert asked and asked <= known


@pytest.mark.parametrize("name", ["serving.md", "serving_CN.md"])
def test_the_documents_name_options_that_there_are(root, name):
    text = (root / "docs" / name).read_text(encoding="utf-8")
    options = {option for action in parser()._actions for option in action.option_strings}
    assert set(re.findall(r"`(--[\w-]+)", text)) <= options


@pytest.mark.parametrize("words", [[], ["glm2_tiny", "2,2"], ["glm2_tiny", "x"], ["glm2_tiny", "0,1", "99999"]])
def test_the_script_refuses_what_makes_no_sense(root, words):
    done = subprocess.run(["bash", str(root / "scripts/serve.sh"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "serve.sh" in done.stderr
