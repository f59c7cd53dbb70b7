"""Cambricon's benchmark on real steps, and its chat: fields, words, refusals."""

import json
import re
import subprocess

import forked
import pytest

from mindformers_glm.cli.documents import cambricon
from mindformers_glm.errors import ConfigError
from mindformers_glm.train.callbacks.document_lines import BenchmarkRecord, written

DOCUMENT_FIELDS = (
    "date net batch_size cards precision DPF_mode batch_time_avg batch_time_var hardware_time_avg hardware_time_var "
    "throughput device dataset"
)


def adgen(folder):
    folder.mkdir()
    row = json.dumps({"content": "类型#裙*颜色#红色", "summary": "红色的裙子，穿着很舒服。"}, ensure_ascii=False)
    (folder / "train.json").write_text("\n".join([row] * 8) + "\n")


def test_the_script_as_typed_writes_the_tutorial_s_json(root, tmp_path):
    adgen(tmp_path / "AdvertiseGen")
    words = [
        "11",
        "ddp",
        "amp",
        "AdvertiseGen",
        "benchmark",
        "370X8",
        "glm2_tiny",
        "lora",
        "--steps",
        "2",
        "--warm_up_steps",
        "1",
    ]
    command = ["bash", str(root / "scripts/test_benchmark.sh"), *words, "--device_target", "CPU"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "benchmark_output/benchmark.json").read_text())
    assert list(found) == DOCUMENT_FIELDS.split() == list(BenchmarkRecord.FIELDS)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", found["date"])
    told = {"net": "glm2_tiny_LoRA", "batch_size": 1, "cards": 1, "precision": "amp", "DPF_mode": "ddp"}
    assert told.items() <= found.items()
    assert found["device"] == "MLU370-X8"
    assert found["dataset"] == "AdvertiseGen"
    assert found["throughput"] == pytest.approx(1 / found["batch_time_avg"], abs=0.01)
    assert found["hardware_time_avg"] <= found["batch_time_avg"]
    assert json.dumps(found, indent=4) in done.stdout
    assert written(tmp_path / "benchmark_output/benchmark.json") == found
    lines = (tmp_path / "benchmark_output/monitor.csv").read_text().splitlines()
    assert lines[0] == "time_s,cpu_percent,memory_mb"
    assert float(lines[-1].split(",")[2]) > 50
    history = (tmp_path / "benchmark_output/loss_history.jsonl").read_text().splitlines()
    assert len(history) == 3  # it ends when the steps are counted


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"num_card": "8"}, 8),
        ({"MLU_VISIBLE_DEVICES": "0,1,2,3", "num_card": "8"}, 4),
        ({"ASCEND_RT_VISIBLE_DEVICES": "3"}, 1),
    ],
)
def test_cards_are_counted_as_the_script_does(environment, count):
    assert cambricon.card_count(environment) == count


def test_wrong_words_are_one_line(root, tmp_path, capsys):
    with pytest.raises(ConfigError, match="num_card: got 'x'"):
        cambricon.card_count({"num_card": "x"})
    with pytest.raises(SystemExit):
        cambricon.main(["11", "ddp", "amp", "D", "benchmark", "370X8", "M", "adapters"])
    assert "invalid choice: 'adapters'" in capsys.readouterr().err
    done = subprocess.run(
        ["bash", str(root / "scripts/test_benchmark.sh"), "11"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "test_benchmark.sh 11 ddp amp DATA_DIR benchmark DEVICE MODEL_DIR lora|finetune" in done.stderr


def test_names_of_nets():
    assert cambricon.net_name("/models/chatglm2-6b/") == "ChatGLM2-6B"
    assert cambricon.net_name("glm2_tiny") == "glm2_tiny"


def test_the_chat_has_the_tutorial_s_words(tmp_path):
    command = ["-m", "mindformers_glm", "cli-demo", "--model_name_or_path", "glm2_tiny", "--use_v2", "True"]
    done = forked.run(command, input="你好\nstop\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    first, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"trainable params: 0 \|\| all params: \d+ \|\| trainable%: 0\.0000", first)
    assert rest[0].startswith("ChatGLM-6B: ")
    assert cambricon.PHRASES.welcome == "欢迎使用 ChatGLM-6B 模型，输入内容即可对话，clear清空对话历史，stop终止程序"
    assert cambricon.PHRASES.question == "Input: "
