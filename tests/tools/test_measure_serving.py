"""A short form of the load: no answer is lost or another's, and clients that misbehave harm nobody."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mindformers_glm.config.names import ASSETS

pytest.importorskip("uvicorn")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="no weights of glm2_tiny"),
]


@pytest.mark.parametrize("bits", [(), ("--quantization_bit", "8")], ids=["float32", "int8"])
def test_under_load_every_answer_is_its_own(root, bits):
    words = [sys.executable, str(root / "tools/measure_serving.py"), "load", "--minutes", "0.3", "--kinds", "60", *bits]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["WRONG"] == told["left over"] == 0 and told["right"] > 50
    assert told["cancelled"] and told["cut off"] and told["429 in a burst"].get("429", 0) > 0
    assert told["differs, and is a tie"] <= told["right"] / 20
