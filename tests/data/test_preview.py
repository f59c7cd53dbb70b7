"""The preview of samples, from arguments and from a configuration."""

import sys

import forked
import pytest

from mindformers_glm.data import KeyWordGenDataset, preview
from mindformers_glm.errors import DataError
from mindformers_glm.tokenizers import ChatGLM2Tokenizer


@pytest.fixture
def dataset(golden, glm2_vocab):
    path = str(golden / "mindformers_r08/dataset/adgen_hostile.json")
    return KeyWordGenDataset(
        data_loader={"type": "ADGenDataLoader", "dataset_dir": path, "shuffle": False},
        tokenizer=ChatGLM2Tokenizer(glm2_vocab),
        batch_size=1,
    )


def test_a_table_of_tokens(dataset):
    text = preview.table(dataset, 0, dataset.tokenizer)
    assert "adgen_hostile.json:1" in text
    lines = text.splitlines()
    assert lines[1].split() == ["position", "id", "piece", "label", "piece", "weight"]
    assert lines[-2].split() == ["22", "2", "</s>", "-100", "0"]
    assert lines[-3].split() == ["21", "31155", "。", "2", "</s>", "1"]
    assert "4 of 23 tokens are supervised (17.4 %), row length 193" in lines[-1]
    assert "... 21 more" in preview.table(dataset, 0, dataset.tokenizer, limit=2)


def test_a_line_finds_its_sample(dataset):
    assert preview.sample_of_line(dataset, 8) == 1
    with pytest.raises(DataError, match="no sample comes from this line"):
        preview.sample_of_line(dataset, 2)
    with pytest.raises(DataError, match="no sample 9"):
        preview.table(dataset, 9, dataset.tokenizer)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--line", "8", "--options", "max_target_length=4"], "cut to fit"),
        (["--phase", "eval", "--limit", "3"], "reference"),
        (["--statistics", "--count", "2"], "5 samples"),
    ],
)
def test_the_command_prints_samples(root, golden, glm2_vocab, more, words):
    data = golden / "mindformers_r08/dataset/adgen_hostile.json"
    command = [sys.executable, "tools/preview_data.py", "--data", str(data), "--tokenizer", glm2_vocab, *more]
    done = forked.run(command, cwd=root)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_the_command_reads_a_configuration(root, golden, glm2_vocab):
    data = golden / "mindformers_r08/dataset/adgen_dev_64.json"
    command = [sys.executable, "tools/preview_data.py", "--config", "configs/glm2/run_glm2_6b_finetune.yaml"]
    command += ["--train_dataset_dir", str(data), "--options", f"train_dataset.tokenizer.vocab_file={glm2_vocab}"]
    done = forked.run(command, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "tokens are supervised" in done.stdout


def test_the_command_fails_in_one_line(root, tmp_path, glm2_vocab):
    for arguments in (["--data", "nowhere.json", "--tokenizer", glm2_vocab], ["--data", "x"], []):
        command = [sys.executable, "tools/preview_data.py", *arguments]
        done = forked.run(command, cwd=root)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
