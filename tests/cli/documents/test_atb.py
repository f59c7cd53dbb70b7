"""main.py of the ATB guide, as typed there: modes, files, columns, refusals."""

import csv
import json

import pytest

from mindformers_glm.benchmark.lengths import check_pairs
from mindformers_glm.benchmark.pairs import HEADER
from mindformers_glm.cli.console import main
from mindformers_glm.cli.documents import atb, environment
from mindformers_glm.errors import ConfigError

DOCUMENT_HEADER = (
    "Batch,InputSeqLen(Encoding),OutputSeqLen(Decoding),TimeOfFirstToken(ms),TimePerToken(ms),TimeTotal(s),"
    "Throughput(tokens/s),ThroughputE2E(tokens/s)"
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*words):
    return main(["atb", "--model_path", "glm2_tiny", *words])


def test_performance_appends_the_document_s_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MAX_SEQ_LEN", "128")
    words = ("--mode", "performance", "--seqlen_in_pair", "16,32", "--seqlen_out_pair", "4,8", "--batch", "2")
    for _ in range(2):
        assert run(*words, "--performance_output_file", "bs2.csv", "--print_response") == 0
    lines = (tmp_path / "bs2.csv").read_text().splitlines()
    assert lines[0] == HEADER == DOCUMENT_HEADER
    rows = list(csv.reader(lines[1:]))
    assert [[int(cell) for cell in row[:3]] for row in rows] == [[2, 16, 4], [2, 32, 8]] * 2
    for row in rows:
        batch, wanted = int(row[0]), int(row[2])
        first, each, total, throughput, end_to_end = map(float, row[3:])
        assert total * 1e3 == pytest.approx(first + each * (wanted - 1))
        assert throughput == pytest.approx(batch / each * 1e3)
        assert end_to_end == pytest.approx(batch * wanted / total)
    said = capsys.readouterr().out
    assert "warm up start\nwarm up end\nbatch: 2, seq_len_in: 16, seq_len_out: 4, time_of_first_token: " in said


def test_the_default_pairs_are_the_document_s():
    chosen = atb.parser().parse_args(["--model_path", "m"])
    assert chosen.mode == "precision_dataset"
    assert chosen.seqlen_in_pair == chosen.seqlen_out_pair == [256, 512, 1024]
    assert chosen.performance_output_file == "performance.csv"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--seqlen_in_pair", "16"), "--seqlen_in_pair has 1 lengths and --seqlen_out_pair 3"),
        (("--seqlen_in_pair", "2000,1,1"), "got 2048. 2000 + 256 tokens exceed it. export MAX_SEQ_LEN=2256"),
        (("--seqlen_in_pair", "16,a"), "give whole numbers with commas between"),
        (("--seqlen_in_pair", "[8, 8]", "--seqlen_out_pair", "[4, 1]"), "Use 2 or more"),
        (("--set_case_pair", "0", "--seqlen_in_range", "9,3"), "Give the first and the last power of two"),
    ],
)
def test_wrong_lengths_are_told_before_a_model_is_loaded(words, told, capsys):
    try:
        assert run("--mode", "performance", *words) == 2
    except SystemExit as end:
        assert end.code == 2
    assert told in capsys.readouterr().err


def test_ranges_are_powers_of_two(monkeypatch):
    chosen = atb.parser().parse_args(
        ["--model_path", "m", "--seqlen_in_range", "5,6", "--seqlen_out_range", "3,4", "--set_case_pair", "0"]
    )
    assert list(zip(*atb.lengths(chosen), strict=True)) == [(32, 8), (32, 16), (64, 8), (64, 16)]
    with pytest.raises(ConfigError, match="MAX_SEQ_LEN"):
        check_pairs([32], [16], longest=47)


def test_precision_dataset_writes_accuracy_by_file_and_in_all(tmp_path, capsys):
    answers = {"STEM/law": [0, 1, 2], "Other/art": [3]}
    for name, labels in answers.items():
        file = tmp_path / f"C/val/{name}.jsonl"
        file.parent.mkdir(parents=True)
        rows = [
            {"inputs_pretokenized": f"第{i}题____\nA. 甲\nB. 乙\nC. 丙\nD. 丁", "label": x}
            for i, x in enumerate(labels)
        ]
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert run("--ceval_dataset", "C", "--batch", "8") == 0
    found = json.loads((tmp_path / "precison_result.json").read_text())
    assert list(found) == ["C/val/Other/art.jsonl", "C/val/STEM/law.jsonl", "acc_total"]
    assert found["acc_total"] == pytest.approx((found["C/val/Other/art.jsonl"] + 3 * found["C/val/STEM/law.jsonl"]) / 4)
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(found["acc_total"])
    assert said[-2] == f"C/val/STEM/law.jsonl {found['C/val/STEM/law.jsonl']}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--ceval_dataset: got None. Name the processed C-Eval package"),
        (("--ceval_dataset", "nowhere"), "There is no such folder."),
        (("--mode", "cli"), "invalid choice"),
    ],
)
def test_what_is_missing_is_one_line(words, told, capsys):
    try:
        assert run(*words) == 2
    except SystemExit as end:
        assert end.code == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_the_package_is_named(tmp_path, capsys):
    (tmp_path / "C").mkdir()
    assert run("--ceval_dataset", "C") == 2
    assert "C: it has no .jsonl below val/" in capsys.readouterr().err


def test_variables_of_the_guide_are_said(monkeypatch):
    values = {"HCCL_BUFFSIZE": "110", "ATB_OPERATION_EXECUTE_ASYNC": "1", "PATH": "x"}
    said = list(environment.said(values))
    assert len(said) == 2
    assert said[0].startswith("HCCL_BUFFSIZE=110: read by the Ascend runtime")
    with pytest.raises(ConfigError, match="Give a number of tokens"):
        environment.max_seq_len({"MAX_SEQ_LEN": "long"})


def test_precision_single_answers_the_question_for_each_row(capsys):
    assert run("--mode", "precision_single", "--batch", "2") == 0
    said = capsys.readouterr().out
    assert said.startswith("Question:\n\n发现传染病病例后")
    replies = said.partition("Answer:\n\n")[2].strip().splitlines()
    assert len(replies) == 2
    assert replies[0] == replies[1] != ""
