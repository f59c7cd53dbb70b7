"""tools/export.py: its options, and the whole way from a LoRA fine-tuning to the same text in MindSpore Lite."""

from __future__ import annotations

import json

import forked
import lite_environment
import pytest

from mindformers_glm.cli.export import parser, words_of
from mindformers_glm.errors import ConfigError

RECORD = {"content": "类型#裙*颜色#红色", "summary": "这款红色的裙子，穿上很有气质。"}


def run(root, cwd, *words):
    done = forked.run(words, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_options_become_those_of_run_mindformer(tmp_path):
    args, free = parser().parse_known_args(
        ["--config_path", "a.yaml", "--model_type", "MINDIR", "--dtype", "float16", "--infer.dynamic", "True"]
    )
    words = words_of(args, free)
    assert words[:4] == ["--run_mode", "export", "--config", "a.yaml"]
    assert words[4:6] == ["--infer.model_type", "mindir"]
    assert "--model.model_config.compute_dtype" in words and words[-2:] == ["--infer.dynamic", "True"]


def test_a_model_folder_holds_one_of_each(tmp_path):
    args, _ = parser().parse_known_args(["--model_dir", str(tmp_path)])
    with pytest.raises(ConfigError, match="there are 0 and 0"):
        words_of(args, [])
    (tmp_path / "a.yaml").touch()
    (tmp_path / "a.ckpt").touch()
    args, _ = parser().parse_known_args(["--model_dir", str(tmp_path)])
    assert str(tmp_path / "a.ckpt") in words_of(args, [])


def test_the_documented_configuration_names_its_repair(root, tmp_path):
    done = forked.run([root / "tools/export.py", "--config_path", "configs/glm2/export_glm2_6b.yaml"], cwd=tmp_path)
    assert done.returncode == 2
    assert "--device_target CPU" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_from_lora_finetuning_to_lite(root, tmp_path):
    python = lite_environment.require()
    data = tmp_path / "train.json"
    data.write_text("".join(json.dumps(RECORD, ensure_ascii=False) + "\n" for _ in range(16)), encoding="utf-8")
    config = root / "configs/tiny/run_glm2_tiny_lora.yaml"
    run(
        root,
        tmp_path,
        root / "run_mindformer.py",
        "--config",
        config,
        "--run_mode",
        "finetune",
        "--train_dataset_dir",
        data,
        "--runner_config.epochs",
        "2",
        "--runner_config.batch_size",
        "4",
    )
    network = next((tmp_path / "output/checkpoint_network/rank_0").glob("*.ckpt"))
    prompt = RECORD["content"]
    predict = (
        root / "run_mindformer.py",
        "--config",
        config,
        "--run_mode",
        "predict",
        "--load_checkpoint",
        network,
        "--model.model_config.max_decode_length",
        "96",
        "--predict_data",
        prompt,
    )
    run(root, tmp_path, *predict)
    expected = eval_list((tmp_path / "text_generation_result.txt").read_text(encoding="utf-8"))
    infer = {
        "prefill_model_path": "deploy/tiny_prefill.mindir",
        "increment_model_path": "deploy/tiny_inc.mindir",
        "merge_lora": "True",
        "dynamic": "True",
    }
    settings = [word for name, value in infer.items() for word in (f"--infer.{name}", value)]
    run(root, tmp_path, root / "tools/export.py", "--config_path", config, "--load_checkpoint", network, *settings)
    run(root, tmp_path, root / "tools/convert_lite.py", "deploy", "--lite_python", python)
    out = run(
        root,
        tmp_path,
        root / "tools/run_infer_main.py",
        "--model_dir",
        "deploy",
        "--lite_python",
        python,
        "--max_length",
        "96",
        "--predict_data",
        prompt,
    )
    assert eval_list(out.strip().splitlines()[-1]) == expected[0]["text_generation_text"]


def eval_list(text):
    import ast

    return ast.literal_eval(text)
