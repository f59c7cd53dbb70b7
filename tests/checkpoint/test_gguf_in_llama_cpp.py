"""GGUF files that we write, in llama.cpp: it loads them and writes the tokens that we write.

$GLM_LLAMA_PYTHON names the Python of an environment with llama-cpp-python.
"""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest

from mindformers_glm.cli.convert import main

SURE = {"f16": 0.025, "q8_0": 0.4, "q4_0": 0.4}  # logits differ by less: the facts beside the reference data
STEPS = 16
PROGRAM = """
import json, sys
import llama_cpp, numpy as np
rows = []
model = llama_cpp.Llama(model_path=sys.argv[1], n_ctx=128, n_threads=1, logits_all=True, verbose=False)
for prompt in json.loads(sys.argv[2]):
    model.reset()
    model.eval(prompt)
    ids = []
    for _ in range(int(sys.argv[3])):
        ids.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(ids[-1:])
    rows.append(ids)
print(json.dumps(rows))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("GLM_LLAMA_PYTHON"), reason="$GLM_LLAMA_PYTHON names no llama-cpp-python"),
]


def theirs(path, prompts) -> list[list[int]]:
    words = [os.environ["GLM_LLAMA_PYTHON"], "-c", PROGRAM, str(path), json.dumps(prompts), str(STEPS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def ours(path, prompts) -> tuple[list[list[int]], list[list[float]]]:
    """The greedy tokens on the same file, and by how much each was the best."""
    from mindformers_glm import AutoModel
    from mindformers_glm.generation.generate import engine_of

    model = AutoModel.from_pretrained(path, param_init_type="float32", compute_dtype="float32")
    network, tokens, margins = engine_of(model).network, [], []
    for prompt in prompts:
        cache, given, ids, margin = network.new_cache(1), prompt, [], []
        for _ in range(STEPS):
            count = np.array([len(given)], np.int32)
            logits = network.forward(np.array([given], np.int32), count, cache, np.array([len(given) - 1], np.int32))[0]
            second, best = np.sort(logits)[-2:]
            ids.append(int(logits.argmax()))
            margin.append(float(best - second))
            given = ids[-1:]
        tokens.append(ids)
        margins.append(margin)
    return tokens, margins


@pytest.mark.parametrize(
    ("source", "dtype"),
    [("glm2_tiny", "f16"), ("glm2_tiny", "q8_0"), ("base/glm2", "f16"), ("base/glm3", "f16"), ("glm2_tiny", "q4_0")],
)
def test_it_writes_our_tokens(shared, tmp_path, monkeypatch, source, dtype):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    golden = shared / "golden/quantisation"
    base = golden / source if "/" in source else source
    made = tmp_path / "x.gguf"
    main(["--input_path", str(base), "--output_path", str(made), "--to", "gguf", "--dtype", dtype])
    expected = np.load(golden / ("w8a8/glm2_tiny" if source == "glm2_tiny" else source) / "expected.npz")
    prompts = [expected[f"ids_{i}"].tolist() for i in range(2)]
    tokens, margins = ours(made, prompts)
    compared = 0
    for own, margin, other in zip(tokens, margins, theirs(made, prompts), strict=True):
        unsure = next((step for step, value in enumerate(margin) if value < SURE[dtype]), STEPS)
        assert other[:unsure] == own[:unsure]
        compared += unsure
    assert compared >= STEPS if dtype == "f16" else compared
