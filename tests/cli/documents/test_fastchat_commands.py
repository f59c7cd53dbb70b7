"""FastChat's trainer with the document's flags: translation, lines, masks, refusals."""

import ast
import json

import pytest
import yaml

from mindformers_glm.cli.console import main
from mindformers_glm.cli.documents import fastchat

DOCUMENT = """--num_train_epochs 2 --per_device_train_batch_size 2 --per_device_eval_batch_size 1
    --gradient_accumulation_steps 1 --evaluation_strategy no --save_strategy epoch --learning_rate 5e-5
    --weight_decay 0. --lr_scheduler_type cosine --logging_steps 1 --gradient_checkpointing True
    --lazy_preprocess True --trust_remote_code True --padding_side left --fp16 True"""
# Rows as FastChat's own tokenisation twice disagrees about: spaces at a turn's end, marks of roles inside a text.
TALKS = [
    [("human", "你好 "), ("gpt", " 你好！有什么可以帮你？ ")],
    [("human", "USER: ASSISTANT:"), ("gpt", "</s>")],
    [("human", "1"), ("gpt", "一"), ("human", "\n2\n"), ("gpt", "二\n")],
    [("human", "再见"), ("gpt", "再见。")],
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": str(i), "conversations": [{"from": who, "value": text} for who, text in talk]}
        for i, talk in enumerate(TALKS)
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows, ensure_ascii=False))
    return tmp_path


def train(*words):
    return main(["fastchat-train", "--model_name_or_path", "glm2_tiny", "--data_path", "data.json", *words])


def test_the_document_s_command_trains_and_logs_dictionaries(data, capsys):
    words = [*DOCUMENT.split(), "--fsdp", "full_shard auto_wrap", "--model_max_length", "64", "--device_target", "CPU"]
    assert train("--output_dir", "out", *words) == 0
    said = capsys.readouterr().out
    lines = [ast.literal_eval(line) for line in said.splitlines() if line.startswith("{")]
    assert [list(line) for line in lines[:-1]] == [["loss", "learning_rate", "epoch"]] * 4
    assert [line["epoch"] for line in lines[:-1]] == [0.5, 1.0, 1.5, 2.0]
    assert lines[0]["learning_rate"] == 5e-5
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"} < set(lines[-1])
    assert "tokenization mismatch" not in said
    assert "--learning_rate -> lr_schedule.learning_rate: 5e-05" in said
    assert "--lazy_preprocess: no effect" in said
    saved = sorted(path.name for path in (data / "out/checkpoint/rank_0").glob("*.ckpt"))
    assert saved == ["fastchat_rank_0-1_2.ckpt", "fastchat_rank_0-2_2.ckpt"]
    values = yaml.safe_load((data / "out/translated.yaml").read_text())
    assert values["optimizer"] | {"type": "adamw_bias_correction", "weight_decay": 0.0} == values["optimizer"]
    assert values["recompute_config"]["recompute"] is True
    assert values["train_dataset"]["max_seq_length"] == 64


def test_no_row_is_masked_away(data):
    """Every answer is learned, whatever its text: masks come from the parts of a conversation."""
    from mindformers_glm.assembly.run import build_data
    from mindformers_glm.cli.documents.training import laid_over, of_model
    from mindformers_glm.config import make_config

    values = of_model("glm2_tiny", bases=("own_data.yaml",), device_target="CPU", seq_length=64)
    chosen = fastchat.parser().parse_args(
        [
            "--model_name_or_path",
            "glm2_tiny",
            "--data_path",
            "data.json",
            "--output_dir",
            "o",
            "--model_max_length",
            "64",
        ]
    )
    keys, _ = fastchat.translated(chosen, 1)
    del values["train_dataset"]["data_loader"], values["lr_schedule"]
    config = make_config(laid_over(values, {**keys, "runner_config.batch_size": 1}))
    rows = build_data(config, "train")
    tokenizer = rows.tokenizer
    learned = sorted(tokenizer.decode([int(i) for i in batch.labels[0] if i >= 0]).strip() for batch in rows.batches(0))
    assert len(learned) == len(TALKS)
    assert any("你好！有什么可以帮你？" in text for text in learned)
    assert all(learned)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fp16", "True", "--bf16", "True"), "--bf16: got True. --fp16 is True too"),
        (("--data_path", "none.json"), "none.json: there is no such file"),
        (("--fp16", "maybe"), "give True or False"),
        (("--learning_rate", "-1"), "give a finite number above 0"),
        (("--deepspeed", "z3.json"), "unrecognized arguments: --deepspeed"),
    ],
)
def test_refusals_are_one_line(data, words, told, capsys):
    try:
        assert train("--output_dir", "out", *words) == 2
    except SystemExit as end:
        assert end.code == 2
    assert told in capsys.readouterr().err
    assert not (data / "out").exists()


def test_cuda_is_refused(capsys):
    assert main(["fastchat-cli", "--model-path", "glm2_tiny", "--device", "cuda"]) == 2
    assert "MindSpore computes on npu or cpu here." in capsys.readouterr().err
