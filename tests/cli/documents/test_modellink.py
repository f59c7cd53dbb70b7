"""ModelLink's scripts: a circle from a Hugging Face folder through Megatron and a step of tuning, and its flags."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindformers_glm.cli.console import main
from mindformers_glm.cli.documents import modellink
from mindformers_glm.errors import ConfigError

FLAGS = ["--load", "mg", "--save", "run", "--tokenizer-name-or-path", "hf", "--data-path", "pair", "--seq-length", "8"]


@pytest.fixture(scope="module")
def folder(golden, shared, tmp_path_factory):
    place = tmp_path_factory.mktemp("modellink")
    (place / "hf").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden / "hf_glm3_tiny" / name, place / "hf" / name)
    shutil.copy(shared / "data/tokenizer/chatglm3-6b/tokenizer.model", place / "hf")
    shutil.copy(shared / "data/tokenizer/chatglm3-6b/tokenizer_config.json", place / "hf")
    return place


def script(root, folder, name, *words, **variables):
    command = ["bash", str(root / f"scripts/chatglm3/{name}.sh"), *words]
    environment = {**os.environ, **variables, "GLOG_v": "3"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_conversion_scripts_make_a_circle(root, folder):
    script(root, folder, "ckpt_convert_chatglm3_hf2mcore", LOAD_DIR="hf", SAVE_DIR="mg", TP="1", PP="1")
    assert (folder / "mg/latest_checkpointed_iteration.txt").read_text().strip() == "1"
    script(root, folder, "ckpt_convert_chatglm3_mcore2hf", LOAD_DIR="mg", SAVE_DIR="hf")
    assert (folder / "hf/mg2hg/tokenizer.model").is_file()
    assert json.loads((folder / "hf/mg2hg/config.json").read_text())["num_layers"] == 3
    before, after = load_file(folder / "hf/model.safetensors"), load_file(folder / "hf/mg2hg/model.safetensors")
    same = {name: np.array_equal(value, after[name]) for name, value in before.items() if "inv_freq" not in name}
    assert all(same.values()), same


@pytest.mark.slow
def test_tuning_generation_and_mmlu_on_it(root, folder, shared):
    script(root, folder, "ckpt_convert_chatglm3_hf2mcore", "--overwrite", LOAD_DIR="hf", SAVE_DIR="mg", TP="1", PP="1")
    rows = json.loads((shared / "data/instruct/llamafactory/alpaca_en_demo.json").read_text())[:20]
    (folder / "alpaca.json").write_text(json.dumps(rows))
    words = "--input alpaca.json --tokenizer-name-or-path hf --output-prefix alpaca --append-eod --handler-name "
    done = subprocess.run(
        [
            str(root / ".venv/bin/python"),
            str(root / "tools/preprocess_data.py"),
            *words.split(),
            "GeneralInstructionHandler",
        ],
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0
    said = script(
        root,
        folder,
        "tune_chatglm3_6B_8K",
        **{"NPUS_PER_NODE": "1", "TP": "1", "PP": "1", "CKPT_LOAD_DIR": "mg", "CKPT_SAVE_DIR": "run"},
        **{"TOKENIZER_PATH": "hf", "DATA_PATH": "alpaca", "SEQ_LEN": "128", "GBS": "2", "TRAIN_ITERS": "2"},
    )
    assert "--seq-length -> train_dataset.seq_length: 128" in said
    assert "step 2/2  loss" in said
    script(root, folder, "ckpt_convert_chatglm3_mcore2hf", "--overwrite", LOAD_DIR="run/megatron", SAVE_DIR="hf")
    before, after = load_file(folder / "hf/model.safetensors"), load_file(folder / "hf/mg2hg/model.safetensors")
    name = "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"
    assert 0 < np.abs(before[name] - after[name]).max() < 1e-3
    said = script(
        root, folder, "generate_chatglm3_6B", "--max-new-tokens", "4", CHECKPOINT="run/megatron", TOKENIZER_PATH="hf"
    )
    assert said.count("=== Greedy Search ===") == said.count("=== Beam Search ===") == 3
    mmlu = str(shared / "data/eval/mmlu/data/test")
    said = script(
        root, folder, "evaluate_chatglm3_6B", "--limit", "1", CHECKPOINT="mg", TOKENIZER_PATH="hf", DATA_PATH=mmlu
    )
    table = [line.split() for line in said.splitlines()]
    assert ["subject", "question_n", "acc"] in table
    assert len([row for row in table if len(row) == 3 and row[1] == "1"]) == 57
    assert next(row for row in table if row and row[0] == "total")[1] == "57"


def chosen(*words):
    return modellink.parser().parse_args([*FLAGS, *words])


def test_flags_become_keys():
    words = """--nproc_per_node 8 --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --seed 7
        --micro-batch-size 2 --global-batch-size 16 --lr 1e-6 --min-lr 1e-8 --lr-decay-style cosine
        --train-iters 10 --split 949,50,1 --clip-grad 1.0 --reset-attention-mask"""
    keys, lines = modellink.translated(chosen(*words.split()))
    expected = {
        "parallel_config.data_parallel": 2,
        "parallel_config.model_parallel": 2,
        "parallel_config.pipeline_stage": 2,
        "parallel_config.micro_batch_num": 4,
        "runner_config.batch_size": 2,
        "runner_config.max_steps": 10,
        "train_dataset.data_loader.num_samples": 160,
        "train_dataset.data_loader.split": "949,50,1",
        "train_dataset.data_loader.reset_attention_mask": True,
        "lr_schedule.type": "cosine",
        "lr_schedule.lr_end": 1e-8,
        "seed": 7,
    }
    assert expected.items() <= keys.items()
    assert ("--lr", "lr_schedule.learning_rate: 1e-06") in lines
    assert not {"parallel.overlap_grad_reduce", "parallel_config.use_seq_parallel"} & set(keys)


def test_flags_without_a_value_set_their_key():
    keys, lines = modellink.translated(chosen("--overlap-grad-reduce", "--sequence-parallel"))
    assert keys["parallel.overlap_grad_reduce"] is True and keys["parallel_config.use_seq_parallel"] is True
    assert ("--overlap-grad-reduce", "parallel.overlap_grad_reduce: True") in lines
    assert ("--sequence-parallel", "parallel_config.use_seq_parallel: True") in lines


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--nproc_per_node 8 --tensor-model-parallel-size 3", "--nproc_per_node 8 is no multiple of 3 x 1 ranks"),
        ("--micro-batch-size 2 --global-batch-size 3", "It must be a multiple of 1 data ranks"),
    ],
)
def test_sizes_that_do_not_fit_are_named(words, told):
    with pytest.raises(ConfigError, match=told):
        modellink.translated(chosen(*words.split()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--load-dir a --save-dir b", "--loader: got None. Name what --load-dir holds"),
        ("--loader chatglm3_hf --save-model-type save_huggingface_chatglm3 --load-dir a --save-dir b", "already"),
        ("--loader megatron --save-model-type onnx --load-dir a --save-dir b", "Use save_huggingface_chatglm3"),
        ("--loader llama2_hf --load-dir a --save-dir b", "invalid choice: 'llama2_hf'"),
    ],
)
def test_conversions_that_say_nothing_are_refused(words, told, capsys):
    try:
        assert main(["modellink-convert", *words.split()]) == 2
    except SystemExit as end:
        assert end.code == 2
    assert told in capsys.readouterr().err


def test_an_unknown_flag_is_named(capsys):
    with pytest.raises(SystemExit):
        chosen("--use-mc2")
    assert "unrecognized arguments: --use-mc2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.dist
def test_two_pipeline_stages_tune_and_come_back_as_a_hugging_face_folder(root, tmp_path, shared):
    """Hugging Face -> Megatron of 1 x 2 ranks -> two steps on two processes, equal to one -> Megatron -> Hugging Face.

    Folders of 1 x 2 and 2 x 4 ranks come back bit for bit, before training and after it.
    """
    python = str(root / ".venv/bin/python")
    words = ["convert", "--input_path", "glm2_tiny", "--output_path", "hf", "--to", "hf"]
    subprocess.run([python, "-m", "mindformers_glm", *words], cwd=tmp_path, check=True)

    def circle(tp, pp):
        """The Megatron folder of `hf`, and whether it comes back bit for bit."""
        place = f"mg{tp}x{pp}"
        script(root, tmp_path, "ckpt_convert_chatglm3_hf2mcore", LOAD_DIR="hf", SAVE_DIR=place, TP=tp, PP=pp)
        assert len(list((tmp_path / place / "iter_0000001").iterdir())) == int(tp) * int(pp)
        script(root, tmp_path, "ckpt_convert_chatglm3_mcore2hf", "--overwrite", LOAD_DIR=place, SAVE_DIR="hf")
        before, after = load_file(tmp_path / "hf/model.safetensors"), load_file(tmp_path / "hf/mg2hg/model.safetensors")
        assert set(before) == set(after)
        return place, all(value.tobytes() == after[name].tobytes() for name, value in before.items())

    mg, same = circle("1", "2")
    assert same and circle("2", "4")[1]
    rows = json.loads((shared / "data/instruct/llamafactory/alpaca_en_demo.json").read_text())[:20]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    words = "--input alpaca.json --tokenizer-name-or-path hf --output-prefix alpaca --append-eod --handler-name"
    tool = str(root / "tools/preprocess_data.py")
    subprocess.run([python, tool, *words.split(), "GeneralInstructionHandler"], cwd=tmp_path, check=True)
    losses = {}
    for ranks, folder in (("1", "alone"), ("2", "run")):
        said = script(
            root,
            tmp_path,
            "tune_chatglm3_6B_8K",
            **{"NPUS_PER_NODE": ranks, "TP": "1", "PP": ranks, "CKPT_LOAD_DIR": mg, "CKPT_SAVE_DIR": folder},
            **{"TOKENIZER_PATH": "hf", "DATA_PATH": "alpaca", "SEQ_LEN": "512", "GBS": "2", "TRAIN_ITERS": "2"},
        )
        lines = (tmp_path / folder / "loss_history.jsonl").read_text().splitlines()
        losses[folder] = [json.loads(line)["loss"] for line in lines]
    assert "--pipeline-model-parallel-size -> parallel_config.pipeline_stage: 2" in said
    assert len(losses["run"]) == 2 and losses["run"] == pytest.approx(losses["alone"], rel=1e-5)
    script(root, tmp_path, "ckpt_convert_chatglm3_mcore2hf", "--overwrite", LOAD_DIR="run/megatron", SAVE_DIR="hf")
    before, after = load_file(tmp_path / "hf/model.safetensors"), load_file(tmp_path / "hf/mg2hg/model.safetensors")
    moved = {name: np.abs(value - after[name].astype(np.float32)).max() for name, value in before.items()}
    assert set(before) == set(after)
    assert 0 < max(moved.values()) < 1e-3
    chat = [python, "-m", "mindformers_glm", "chat", "--model", "hf/mg2hg", "--max_new_tokens", "4"]
    done = subprocess.run(chat, cwd=tmp_path, input="你好\nstop\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    words = ["evaluate", "--model", "hf/mg2hg", "--tasks", "mmlu", "--data_dir", str(shared / "data/eval/mmlu/data")]
    words += ["--limit", "1", "--output_dir", "scores", "--num_fewshot", "0"]
    subprocess.run([python, "-m", "mindformers_glm", *words], cwd=tmp_path, check=True)
    subjects = {json.loads(line)["subject"] for line in (tmp_path / "scores/samples.jsonl").read_text().splitlines()}
    assert len(subjects) == 57
