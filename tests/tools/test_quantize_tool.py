"""tools/quantize_model.py and the section `quantization` as users type them."""

from __future__ import annotations

import json
import re

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


ROWS = ("你好", "你是谁", "写一段广告：红色的连衣裙")


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows.txt").write_text("\n".join(ROWS), encoding="utf-8")
    replies = [{"inputs_pretokenized": "[Round 1]\n\n问：你好\n\n答：", "targets_pretokenized": "你好，我在呢。"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in replies]
    (tmp_path / "gate.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_w8a8_is_calibrated_judged_and_written_as_ascend_v1(root, rows):
    out = rows / "w8a8"
    words = ("tools/quantize_model.py", "--checkpoint", "glm2_tiny", "--scheme", "w8a8", "--output_path", out,
             "--data_path", rows / "gate.jsonl", "--gate", rows / "gate.jsonl", "--float_linears", "dense_4h_to_h",
             "--float_layers_id", "3", "--smooth", "0.5")  # fmt: skip
    refused = run(root, *words, "--bound", "1e-9")
    assert refused.returncode == 2 and "nothing was written" in refused.stderr and not out.exists()
    assert "Nothing that was tried loses so little" in refused.stderr
    report = json.loads((rows / "w8a8_gate/gate.json").read_text())
    (verdict,) = report["verdicts"]
    assert 0 < verdict["kl"] < 0.01 and verdict["float_layers"] == [3] and verdict["greedy"] > 0.9
    assert len(report["layers"]) == 9 and all(0 < row["outputs"] < 0.05 for row in report["layers"])
    assert "| w8a8 |" in (rows / "w8a8_gate/gate.md").read_text()
    done = run(root, *words)  # what was calibrated is still there
    assert done.returncode == 0, done.stderr
    names = {"config.json", "manifest.json", "quant_model_weight_w8a8.safetensors", "quant_model_description.json"}
    assert names | {"tokenizer.model", "tokenizer_config.json"} >= {p.name for p in out.iterdir()} >= names
    assert not (rows / "w8a8.work").exists()
    kinds = json.loads((out / "quant_model_description.json").read_text())
    assert sum(kind == "W8A8" for kind in kinds.values()) == 9 * 5 + 1
    chat = run(root, "run_mindformer.py", "--config", root / "configs/tiny/run_glm2_tiny.yaml", "--run_mode", "predict",
               "--predict_data", "你好", "--load_checkpoint", out, "--options", "quantization.scheme=w8a8",
               f"output_dir={rows}")  # fmt: skip
    assert chat.returncode == 0 and "你好" in chat.stdout, chat.stderr


@pytest.mark.slow
def test_the_smallest_within_the_bound_is_proposed_and_written(root, rows, shared):
    words = ("tools/quantize_model.py", "--checkpoint", "glm2_tiny", "--scheme", "w8a8", "--output_path", rows / "out",
             "--data_path", rows / "gate.jsonl", "--gate", rows / "gate.jsonl", "--propose", "--bound", "0.001",
             "--ceval", shared / "data/eval/ceval")  # fmt: skip
    done = run(root, *words)
    assert done.returncode == 0, done.stderr
    report = json.loads((rows / "out_gate/gate.json").read_text())
    assert 1 < len(report["verdicts"]) < 6 and report["proposal"]["kl"] <= 0.001
    assert all(0 < row["ceval"] < 1 and 0 < row["ceval_float"] < 1 for row in report["verdicts"])
    kinds = json.loads((rows / "out/quant_model_description.json").read_text())
    floats = [name for name, kind in kinds.items() if kind == "FLOAT" and "dense" in name and name.endswith(".weight")]
    proposal = report["proposal"]
    assert len(floats) >= 4 * len(proposal["float_linears"]) + len(proposal["float_layers_id"])


@pytest.mark.slow
def test_4_bits_with_rows_lose_less(root, rows):
    figures = {}
    for name, more in (("plain", ()), ("seen", ("--data_path", rows / "gate.jsonl"))):
        words = ("--checkpoint", "glm2_tiny", "--bits", 4, "--gate", rows / "gate.jsonl", "--bound", 10)
        done = run(root, "tools/quantize_model.py", *words, *more, "--output_path", rows / name)
        assert done.returncode == 0, done.stderr
        figures[name] = json.loads((rows / f"{name}_gate/gate.json").read_text())["verdicts"][0]
    assert figures["seen"]["kl"] < 0.5 * figures["plain"]["kl"]
    assert figures["seen"]["bytes"] == figures["plain"]["bytes"]
    loaded = run(root, "tools/quantize_model.py", "--checkpoint", rows / "seen", "--output_path", rows / "x")
    assert loaded.returncode == 2 and "quantised already" in loaded.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scheme", "w8a8"), "--data_path: .*Name rows to calibrate on"),
        (("--scheme", "w8a9"), "No quantisation scheme has this name"),
        (("--scheme", "int8-row", "--group_size", "64"), "--group_size: got 64. The scheme int8-row has one scale"),
        (
            ("--scheme", "w8a8", "--group_size", "32", "--data_path", "rows.txt"),
            "--group_size: got 32.*w8a8 has",
        ),
        (("--bits", "4", "--float_layers_id", "0", "--data_path", "rows.txt"), "stay float with W8A8 alone"),
        (("--scheme", "w8a8", "--float_layers_id", "9", "--data_path", "rows.txt"), "layers 0 to 3"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_read(root, rows, words, told):
    words = [rows / word if word == "rows.txt" else word for word in words]
    done = run(root, "tools/quantize_model.py", "--checkpoint", "glm2_tiny", *words, "--output_path", rows / "x")
    assert done.returncode == 2 and re.search(told, done.stderr), done.stderr
    assert not (rows / "x").exists()


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
