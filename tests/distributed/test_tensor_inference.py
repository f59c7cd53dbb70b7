"""Commands in two real processes that share a network: rank 0 keeps the terminal, and says what one process says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mindformers_glm.config.names import ASSETS

pytestmark = [
    pytest.mark.dist,
    pytest.mark.slow,
    pytest.mark.skipif(not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="no weights of glm2_tiny"),
]


def call(root, *words, text=None, cwd=None, **variables):
    environment = {**os.environ, "PYTHONPATH": str(root), "GLOG_v": "3", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "mindformers_glm", *words],
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=400,
    )


def test_chat_with_two_ranks_answers_as_one(root, tmp_path):
    talk = "类型#裤*颜色#黑色\n你好\nclear\n类型#裙\nstop\n"
    said = [
        call(root, "chat", "--model", "glm2_tiny", "--max_new_tokens", "16", "--tp_size", size, text=talk, cwd=tmp_path)
        for size in ("1", "2")
    ]
    assert [one.returncode for one in said] == [0, 0], said[1].stderr
    assert said[0].stdout == said[1].stdout
    assert said[0].stdout.strip()


def test_perplexity_over_two_ranks_is_that_of_one(root, tmp_path):
    texts = [{"text": "黑色的裤子很好看，适合日常穿着。"}, {"text": "条纹裙子"}]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in texts))
    figures = []
    for size in ("1", "2"):
        words = ("--model", "glm2_tiny", "--tasks", "ppl", "--data_dir", "texts.jsonl", "--output_dir", f"out{size}")
        done = call(root, "evaluate", *words, "--tp_size", size, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        figures.append(json.loads((tmp_path / f"out{size}/results.json").read_text())["results"]["ppl"])
    numbers = [{name: value for name, value in one.items() if isinstance(value, float)} for one in figures]
    assert numbers[0]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)


def test_w8a8_over_two_ranks_answers_as_one(root, shared, tmp_path):
    """Every layer with its own range of inputs; inputs of two linears of a layer are divided, sums are added up."""
    folder = shared / "golden/quantisation/w8a8/glm2_tiny/old"
    said = [
        call(
            root,
            *("atb", "--mode", "precision_single", "--model_path", "glm2_tiny", "--tp_size", size),
            cwd=tmp_path,
            ENABLE_QUANT="1",
            QUANT_WEIGHT_PATH=str(folder),
            MAX_SEQ_LEN="96",
            **more,
        )
        for size, more in (("1", {}), ("2", {}), ("2", {"GLM_KERNELS": "off"}))
    ]
    assert [one.returncode for one in said] == [0, 0, 0], said[-1].stderr
    assert said[0].stdout == said[1].stdout == said[2].stdout
    assert len(said[0].stdout.partition("Answer:")[2].strip()) > 10


def test_a_network_that_cannot_be_divided_is_one_line(root, tmp_path):
    done = call(root, "chat", "--model", "glm2_tiny", "--tp_size", "3", text="stop\n", cwd=tmp_path)
    assert done.returncode == 2
    assert "parallel_config.model_parallel" in done.stderr or "must divide" in done.stderr
