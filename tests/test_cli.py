"""run_mindformer.py as a user types it: the run modes on a network of a few thousand parameters, and broken inputs."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import yaml

from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli import main

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "kv_channels": 8,
    "num_attention_heads": 4,
    "seq_length": 64,
}
PRODUCT = "类型#裙*颜色#红色"


def write_lines(path: Path, count: int) -> Path:
    rows = [{"content": f"{PRODUCT}*图案#{i}", "summary": f"这条红色的裙子有图案{i}。"} for i in range(count)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A folder with 16 training lines, 4 evaluation lines and a configuration of a very small network."""
    return furnished(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Such a folder after two epochs of training, which tests go on with."""
    folder = furnished(tmp_path_factory.mktemp("trained"))
    done = run(folder, "--epochs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def furnished(folder: Path) -> Path:
    write_lines(folder / "train.json", 16)
    write_lines(folder / "dev.json", 4)
    config = {
        "base_config": str(ROOT / "configs/tiny/run_glm2_tiny_finetune.yaml"),
        "model": {"model_config": {**SHAPE, "checkpoint_name_or_path": ""}},
        "load_checkpoint": "",
        "allow_random_weights": True,
        "run_mode": "train",
        "train_dataset": {
            "data_loader": {"dataset_dir": "train.json"},
            "max_source_length": 31,
            "max_target_length": 32,
        },
        "eval_dataset": {"data_loader": {"dataset_dir": "dev.json"}, "max_source_length": 48, "max_target_length": 32},
        "runner_config": {"batch_size": 4, "sink_mode": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return forked.run([ROOT / "run_mindformer.py", "--config", "run.yaml", *words], cwd=folder)


def fault(folder: Path, monkeypatch, capfd, *words: str) -> str:
    """What a user sees of a command that must fail before anything is compiled. The same process, to save time."""
    monkeypatch.chdir(folder)
    status = main(["--config", "run.yaml", *words], script_dir=ROOT)
    out, err = capfd.readouterr()
    assert status == 2, out + err
    said = [line for line in err.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(said) if line.startswith("error: "))
    assert "Compiling" not in out
    return "\n".join(said[start:])


def test_a_failure_is_one_line_and_a_status_in_the_shell(workplace):
    words = [sys.executable, ROOT / "run_mindformer.py", "--config", "run.yaml", "--runner_config.epoch", "2"]
    done = subprocess.run(words, cwd=workplace, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr


def test_train_evaluate_predict_and_resume(trained):
    workplace = trained
    output = workplace / "output"
    told = (output / "log/rank_0/info.log").read_text(encoding="utf-8")
    assert len(re.findall(r"\{ Epoch:\[ +\d/ +2\], step:\[ +\d/ +4\], loss:\[", told)) == 8
    saved = output / "checkpoint/rank_0/glm2-tiny_rank_0-2_4.ckpt"
    weights = output / "checkpoint_network/rank_0/glm2-tiny_rank_0-network.ckpt"
    for path in (saved, weights, output / "log/rank_0/info.log", output / "log/rank_0/error.log"):
        assert path.is_file(), path
    assert yaml.safe_load((output / "train_config.yaml").read_text(encoding="utf-8"))["runner_config"]["epochs"] == 2

    checkpoint = ("--load_checkpoint", str(weights))
    done = run(workplace, "--run_mode", "eval", *checkpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    block = re.search(r"metric: ADGENMetric\nrouge-1: .*\nrouge-2: .*\nrouge-l: .*\nbleu-4:  .*\n", done.stdout)
    assert block, done.stdout
    assert len((output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 4

    done = run(workplace, "--run_mode", "predict", *checkpoint, "--predict_data", "你好", "红色的裙子")
    assert done.returncode == 0, done.stdout + done.stderr
    results = (workplace / "text_generation_result.txt").read_text(encoding="utf-8")
    assert results.count("text_generation_text") == 2
    assert "你好" in results

    done = run(workplace, "--epochs", "3", "--resume_training", "True")
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = (output / "log/rank_0/info.log").read_text(encoding="utf-8").removeprefix(told)
    assert len(re.findall(r"step:\[ +\d/ +4\], loss:\[", resumed)) == 4
    assert (output / "checkpoint/rank_0/glm2-tiny_rank_0-3_4.ckpt").is_file()


def test_perplexity_and_evaluation_while_training(workplace):
    same = ["eval_dataset.max_source_length=31", "eval_dataset.data_loader.phase=train", "metric.type=PerplexityMetric"]
    done = run(workplace, "--do_eval", "True", "--eval_step_interval", "2", "--options", *same)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"Eval result: \{.*PPL.*\}, eval time is ", done.stdout)) == 2


def test_lora_trains_the_adapter_alone(trained, workplace):
    weights = trained / "output/checkpoint_network/rank_0/glm2-tiny_rank_0-network.ckpt"
    pet = json.dumps({"pet_type": "lora", "lora_rank": 2, "lora_alpha": 4, "target_modules": ".*query_key_value*"})
    words = ["--run_mode", "finetune", "--load_checkpoint", str(weights), "--output_dir", "lora"]
    done = run(workplace, *words, "--model.model_config.pet_config", pet)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = read_weights(weights), read_weights(next((workplace / "lora/checkpoint_network").glob("*/*.ckpt")))
    lora = [name for name in after.names if "mindpet_delta_lora" in name]
    assert len(lora) == 4
    assert any(after.read(name).any() for name in lora if name.endswith("_b"))
    for name in before.names:
        assert (before.read(name) == after.read(name)).all(), name


BROKEN = {
    "missing data file": (["--train_dataset_dir", "nowhere.json"], "nowhere.json"),
    "empty data file": (["--train_dataset_dir", "empty.json"], "empty.json"),
    "wrong key": (["--runner_config.epoch", "2"], "epochs"),
    "wrong type": (["--epochs", "many"], "runner_config.epochs"),
    "length rule": (["--options", "train_dataset.max_source_length=40"], "max_source_length"),
    "tokenizer of another size": (["--options", "model.model_config.padded_vocab_size=512"], "padded_vocab_size"),
    "tokenizer of a smaller model": (["--options", "model.model_config.padded_vocab_size=65024"], "padded_vocab_size"),
    "unknown class": (["--options", "optimizer.type=AdamWw"], "AdamW"),
    "unknown model name": (["--load_checkpoint", "glm2_6bb"], "glm2_6b"),
    "bad JSON lines": (["--train_dataset_dir", "bad.json"], "bad.json"),
    "no write permission": (["--output_dir", "locked/output"], "output_dir"),
    "missing configuration": (["--config", "run_glm2_tiny_lor.yaml"], "configs/tiny/run_glm2_tiny_lora.yaml"),
    "missing checkpoint": (["--load_checkpoint", "gone.ckpt"], "gone.ckpt"),
    "checkpoint of another shape": (["--load_checkpoint", "glm2_tiny"], "shape"),
    "no weights named": (["--allow_random_weights", "false"], "load_checkpoint"),
    "device that is not here": (["--device_target", "Ascend"], "--device_target CPU"),
    "output is a file": (["--output_dir", "train.json"], "output_dir"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_gives_one_clear_line(workplace, monkeypatch, capfd, case):
    words, named = BROKEN[case]
    (workplace / "empty.json").write_text("")
    (workplace / "bad.json").write_text('{"content": "a"\nnot json\n{"summary": 1}\n')
    if case == "no write permission":
        if os.geteuid() == 0:  # permissions do not bind root: a file where a folder must be made does
            (workplace / "locked").write_text("")
        else:
            (workplace / "locked").mkdir()
            (workplace / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    said = fault(workplace, monkeypatch, capfd, *words)
    assert named in said
    assert len(said.splitlines()) <= 3, said
    assert not (workplace / "output/checkpoint").exists()
