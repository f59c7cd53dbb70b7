"""tools/quantize_model.py and the section `quantization` as users type them."""

from __future__ import annotations

import json

import forked
import pytest


def run(root, *words, cwd=None):
    return forked.run(words, cwd=cwd or root)


def test_a_folder_of_4_bits_writes_text(root, tmp_path):
    out = tmp_path / "small"
    done = run(root, "tools/quantize_model.py", "--checkpoint", "glm2_tiny", "--bits", 4, "--output_path", out)
    assert done.returncode == 0, done.stderr
    assert "linear layers: 10,616,832 bytes in float32" in done.stdout and f"written: {out}" in done.stdout
    assert {"config.yaml", "manifest.json", "model.safetensors", "tokenizer.model"} == {p.name for p in out.iterdir()}
    assert "model.safetensors" in json.dumps(json.loads((out / "manifest.json").read_text()))
    again = run(root, "tools/quantize_model.py", "--checkpoint", out, "--bits", 8, "--output_path", tmp_path / "more")
    assert again.returncode == 2 and "quantised" in again.stderr and again.stderr.count("\n") == 1
    assert not (tmp_path / "more").exists()
    there = run(root, "tools/quantize_model.py", "--checkpoint", "glm2_tiny", "--output_path", out)
    assert there.returncode == 2 and "it exists" in there.stderr
    wrong = run(root, "tools/quantize_model.py", "--checkpoint", "glm2_tiny", "--bits", 3, "--output_path", out / "x")
    assert wrong.returncode == 2 and "--bits: invalid choice: 3 (choose from 8, 4)" in wrong.stderr


@pytest.mark.parametrize("bits", [8, 4])
def test_predict_with_the_section_of_the_yaml(root, tmp_path, bits):
    words = ("run_mindformer.py", "--config", root / "configs/tiny/run_glm2_tiny.yaml", "--run_mode", "predict",
             "--predict_data", "你好", "--options", f"quantization.bits={bits}", "quantization.group_size=64",
             f"output_dir={tmp_path}")  # fmt: skip
    done = run(root, *words)
    assert done.returncode == 0, done.stderr
    assert "你好" in done.stdout


def test_training_of_integer_weights_is_refused(root, tmp_path):
    words = ("run_mindformer.py", "--config", "configs/tiny/run_glm2_tiny_finetune.yaml", "--run_mode", "finetune")
    done = run(root, *words, "--options", "quantization.bits=4", f"output_dir={tmp_path}")
    assert done.returncode == 2 and "Integers are not trained" in done.stderr
