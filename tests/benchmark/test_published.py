"""Figures of ours and of the documents beside each other; unlike settings are refused."""

import json

import pytest

from mindformers_glm.benchmark.command import main
from mindformers_glm.benchmark.lengths import PAIR_COLUMNS
from mindformers_glm.benchmark.published import read

CAMBRICON = {  # the tutorial's own example
    **{"date": "2023-08-20 11:34:11", "net": "ChatGLM2-6B_LoRA", "batch_size": 1, "cards": 8, "precision": "amp"},
    **{"DPF_mode": "ddp", "batch_time_avg": 20.52, "batch_time_var": 0.1, "hardware_time_avg": 20.1},
    **{"hardware_time_var": 0.1, "throughput": 0.39, "device": "MLU370-X8", "dataset": "AdvertiseGen"},
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(CAMBRICON))
    (tmp_path / "b.json").write_text(json.dumps({**CAMBRICON, "throughput": 0.78, "device": "here"}))
    (tmp_path / "other.json").write_text(json.dumps({**CAMBRICON, "cards": 4}))
    rows = ["1, 256, 64, 50.0, 20.0, 1.31, 50.0, 48.85", "1, 512, 128, 90.0, 21.0, 2.757, 47.6, 46.4"]
    (tmp_path / "a.csv").write_text("\n".join([",".join(PAIR_COLUMNS), *rows]) + "\n")
    return tmp_path


def test_files_of_the_documents_are_read_and_compared(files, capsys):
    assert main(["compare", "a.json", "b.json"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("a.json -> b.json: net ChatGLM2-6B_LoRA, batch_size 1, cards 8")
    assert said[-1].split() == ["throughput", "0.39", "0.78", "2.000", "x"]
    assert [item.settings["InputSeqLen(Encoding)"] for item in read("a.csv")] == [256, 512]
    assert main(["compare", "a.csv", "a.csv"]) == 0
    assert capsys.readouterr().out.count("1.000 x") == 10


def test_published_figures_and_own_runs_stand_in_one_chart(files):
    pytest.importorskip("matplotlib")
    assert main(["compare", "a.json", "b.json", "--chart", "c.png", "--figure", "throughput"]) == 0
    assert (files / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.json", "other.json"], "It was measured otherwise than a.json: cards 8 and 4."),
        (["a.json", "a.csv"], "The first has 1 measurements and the second 2"),
        (["a.json", "none.json"], "it cannot be read"),
        (["a.json", "b.json", "--chart", "c.png", "--figure", "speed"], "Use one of batch_time_avg"),
    ],
)
def test_what_cannot_be_compared_is_one_line(files, words, told, capsys):
    assert main(["compare", *words]) == 2
    assert told in capsys.readouterr().err


def test_strange_files_are_refused(files, capsys):
    (files / "x.json").write_text('{"what": 1}')
    (files / "x.csv").write_text("a,b\n1,2\n")
    for name in ("x.json", "x.csv"):
        assert main(["compare", name, name]) == 2
        assert "these are no figures that are known" in capsys.readouterr().err
