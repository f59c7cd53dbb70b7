"""Benchmarks from end to end with a scripted engine: reports, a killed run, ranks, causes of a low score, two runs."""

from __future__ import annotations

import json
import math
import re
import threading

import numpy as np
import pytest

from mindformers_glm.cli.evaluate import main
from mindformers_glm.errors import ConfigError, DataError, UserError
from mindformers_glm.evaluation.answering import answer
from mindformers_glm.evaluation.benchmarks import evaluate
from mindformers_glm.evaluation.comparison import compare, mcnemar
from mindformers_glm.evaluation.interface import Options
from mindformers_glm.evaluation.report import read_report
from mindformers_glm.evaluation.share import Share
from mindformers_glm.evaluation.tasks import build_task
from mindformers_glm.evaluation.tasks.registered import TASKS
from mindformers_glm.evaluation.tasks.table import questions, subject_table, wanted_subjects
from mindformers_glm.evaluation.tasks.ways import Chat
from mindformers_glm.evaluation.why import explain
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Score


class Characters:
    """A vocabulary of characters in which " A" to " D" are one id each."""

    special_ids: dict = {}

    def encode(self, text):
        return [ord(part[-1]) + (4000 if len(part) == 2 else 0) for part in re.findall(r" [A-D]|.|\n", text)]

    def encode_many(self, texts, **_):
        return [self.encode(text) for text in texts]


class Spelling:
    """A tokenizer of characters."""

    vocabulary, eos_token_id = Characters(), 2

    def get_prefix_tokens(self):
        return [1, 3]

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


@pytest.fixture(scope="module")
def tokenizer():
    return Spelling()


class Scripted:
    """An engine whose log-probabilities are a function of the context's length."""

    vocab_size, max_length, defaults = 5000, 4096, GenerationConfig()

    def __init__(self, dies_after=None):
        self.calls, self.dies_after = 0, dies_after

    def forget(self):
        pass

    def score_batch(self, contexts, wanted):
        self.calls += 1
        if self.dies_after is not None and self.calls > self.dies_after:
            raise KeyboardInterrupt
        return [
            (np.array([-float((len(context) * 7 + index) % 11) - 0.1 * n for n, index in enumerate(ids)]), ids[0])
            for context, ids in zip(contexts, wanted, strict=True)
        ]

    def score(self, context, continuations):
        (pair,) = self.score_batch([context], [[ids[-1] for ids in continuations]])
        return [Score(pair[0][n : n + 1], False) for n in range(len(continuations))]


@pytest.fixture(scope="module")
def ceval(tmp_path_factory):
    """A folder like C-Eval's, with three subjects."""
    folder = tmp_path_factory.mktemp("ceval")
    for split, count in (("dev", 5), ("val", 9), ("test", 4)):
        (folder / split).mkdir()
        for subject in ("law", "logic", "college_physics"):
            rows = [
                f"{i},题目 {'长' * (i % 4)} {i}？,一,二,三,四{',' + 'ABCD'[i % 4] if split != 'test' else ''}"
                for i in range(count)
            ]
            head = "id,question,A,B,C,D" + (",answer" if split != "test" else "")
            (folder / split / f"{subject}_{split}.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


SUBJECTS = ["law", "logic", "college_physics"]


def run(tokenizer, ceval, out, engine=None, **more):
    settings = {"data_dir": ceval, "subjects": SUBJECTS, "output_dir": out, "num_fewshot": 2, "batch_size": 2, **more}
    return evaluate(engine or Scripted(), tokenizer, ["ceval-valid"], **settings)


def test_the_report_is_in_the_harness_form(tokenizer, ceval, tmp_path):
    results = run(tokenizer, ceval, tmp_path / "o")
    assert results["n-samples"]["ceval-valid_law"] == {"original": 9, "effective": 9}
    assert set(results["results"]["ceval-valid_law"]) == {"alias", "acc,none", "acc_norm,none"}
    assert "ceval-valid_hard" in results["groups"]
    saved, samples = read_report(tmp_path / "o")
    assert saved == results and len(samples) == 27
    mean = np.mean([sample["acc"] for sample in samples])
    assert results["groups"]["ceval-valid"]["acc,none"] == pytest.approx(mean)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "report.html", "results.csv", "results.json", "results.md", "samples.jsonl",
    ]  # fmt: skip
    page = (tmp_path / "o/report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert {"prompt_ids", "choice_ids", "loglikelihood", "margin", "prediction", "target"} <= set(samples[0])


def test_a_killed_run_goes_on_and_writes_the_same_files(tokenizer, ceval, tmp_path):
    run(tokenizer, ceval, tmp_path / "whole")
    for calls in (1, 3, 6):  # a window is two rows here, or the ninth of a subject: one call each
        with pytest.raises(KeyboardInterrupt):
            run(tokenizer, ceval, tmp_path / f"cut{calls}", Scripted(dies_after=calls))
        journal = tmp_path / f"cut{calls}/.rows-ceval-valid.jsonl"
        journal.write_text(journal.read_text() + '{"row": "law/8", "fig')  # the line that was being written
        again = Scripted()
        run(tokenizer, ceval, tmp_path / f"cut{calls}", again)
        assert again.calls == 15 - calls
        whole, cut = (tmp_path / name / "samples.jsonl" for name in ("whole", f"cut{calls}"))
        assert whole.read_bytes() == cut.read_bytes()


def test_a_journal_of_other_settings_is_not_taken(tokenizer, ceval, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tokenizer, ceval, tmp_path / "o", Scripted(dies_after=5), batch_size=1)
    engine = Scripted()
    run(tokenizer, ceval, tmp_path / "o", engine, num_fewshot=1)
    assert engine.calls == 15


def test_ranks_together_give_the_rows_of_one(tokenizer, ceval):
    def task():
        return build_task("ceval-valid", tokenizer, Options(ceval, SUBJECTS, 2, None, None, 4096))

    alone = answer(task(), Scripted())
    sent, found, barrier = {}, {}, threading.Barrier(2)

    def work(rank):
        def exchange(data):
            sent[rank] = data
            barrier.wait()
            return [sent[0], sent[1]]

        found[rank] = answer(task(), Scripted(), share=Share(rank, 2, exchange))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0].judged == found[1].judged == alone.judged


def test_the_submission_of_the_test_split(tokenizer, ceval, tmp_path):
    results = evaluate(
        Scripted(), tokenizer, ["ceval-test"], data_dir=ceval, subjects=["law"], num_fewshot=0, output_dir=tmp_path
    )
    made = json.loads((tmp_path / "submission.json").read_text())
    assert list(made) == ["law"] and list(made["law"]) == ["0", "1", "2", "3"]
    assert set(made["law"].values()) <= set("ABCD")
    assert results["groups"]["ceval-test"]["answered,none"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subjects": ["lawn"]}, "No subject or group"),
        ({"data_dir": "nowhere"}, "no such folder"),
        ({"way": "modellink"}, "asked in these ways"),
        ({"num_fewshot": 9}, "dev holds 5"),
        ({"way": "official", "num_fewshot": 2}, "without examples"),
        ({"subjects": ["marxism"]}, "no val file of marxism"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_asked(tokenizer, ceval, tmp_path, change, said):
    engine = Scripted()
    with pytest.raises((ConfigError, DataError), match=said):
        run(tokenizer, ceval, tmp_path / "o", engine, **change)
    assert engine.calls == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("law_val.csv", "id,question,A,B,C,D,answer\n0,q,a,b,c,d,E\n", "line 2 .*no answer A to D"),
        ("law_val.csv", "q,a,b,c,A\n", "line 1 .*columns"),
        ("law_val.csv", "", "no question"),
        ("law.jsonl", '{"question": "q"\n', "no JSON"),
        ("law.jsonl", '{"question": "q", "choices": ["a"], "answer": 0}\n', "line 1"),
    ],
)
def test_a_damaged_file_is_named_by_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        questions(tmp_path / name)


def test_tables_hold_the_published_numbers():
    counts = {name: sum(row[split] for row in subject_table(name).values()) for name, split in
              (("ceval", "val"), ("cmmlu", "test"), ("mmlu", "test"))}  # fmt: skip
    assert counts == {"ceval": 1346, "cmmlu": 11582, "mmlu": 14042}
    assert [len(subject_table(name)) for name in ("ceval", "cmmlu", "mmlu")] == [52, 67, 57]
    assert len(wanted_subjects(subject_table("ceval"), ["Hard"])) == 8


@pytest.mark.parametrize(
    ("text", "letter"),
    [("答案是B。", "B"), ("正确答案：C", "C"), ("因此选 D", "D"), ("A", "A"), ("A. 一", "A"),
     ("The answer is (C).", "C"),
     ("选项中 Apple 最好", None), ("我不知道", None), ("**B**", "B"), ("故选：A", "A"), ("答案为（D）", "D")],
)  # fmt: skip
def test_the_letter_of_an_answer(text, letter):
    assert Chat.extract(text) == letter


def sample(**changes):
    base = {"task": "t", "subject": "s", "doc_id": 0, "acc": 1.0, "target": "A", "prediction": "A", "margin": 1.0,
            "prompt_ids": [1, 2, 5, 6], "choice_ids": [[3], [4], [5], [6]], "cut": False}  # fmt: skip
    return {**base, **changes}


ABOUT = {"config": {"prefix_ids": [1, 2], "tokenizer": "ChatGLM2Tokenizer", "role_ids": [], "round_ids": [7, 8]}}
LETTERS = "ABCD" * 3


def holding(about, samples):
    return [cause.name for cause in explain(about, samples) if cause.holds]


def test_nothing_is_found_where_nothing_is_wrong():
    assert holding(ABOUT, [sample(prediction=letter) for letter in LETTERS]) == []


def test_texts_are_not_held_against_letters():
    texts = [sample(target="blue", prediction="It is blue.", choice_ids=None) for _ in range(12)]
    assert holding(ABOUT, texts) == []
    without_answers = [sample(target=None, prediction="B") for _ in range(12)]  # the test split of C-Eval
    assert holding(ABOUT, without_answers) == ["one letter always"]


@pytest.mark.parametrize(
    ("about", "change", "cause"),
    [
        ({}, {"choice_ids": [[3], [4, 9], [5], [6]]}, "choice ids are no single tokens"),
        ({}, {"choice_ids": [[3], [3], [3], [3]]}, "choice ids are no single tokens"),
        ({}, {"prompt_ids": [5, 6, 7]}, "prefix tokens missing or twice"),
        ({}, {"prompt_ids": [1, 2, 1, 2, 5]}, "prefix tokens missing or twice"),
        (
            {"role_ids": [90], "tokenizer": "ChatGLM3Tokenizer"},
            {"prompt_ids": [1, 2, 7, 8, 9]},
            "template of another family",
        ),
        ({"model_family": "chatglm3"}, {}, "template of another family"),
        ({}, {"cut": True}, "prompts were cut"),
        ({}, {"margin": 0.001}, "margins near zero"),
        ({}, {"prediction": "B"}, "one letter always"),
        ({}, {"prediction": None}, "no letter in the answer"),
    ],
)
def test_each_cause_is_found_where_it_is_made(about, change, cause):
    samples = [sample(prediction=letter) | change for letter in LETTERS]
    assert holding({"config": {**ABOUT["config"], **about}}, samples) == [cause]


def test_cut_prompts_are_told(tokenizer, ceval, tmp_path, caplog):
    engine = Scripted()
    engine.max_length = 120
    results = run(tokenizer, ceval, tmp_path / "o", engine)
    assert "27 of 27 prompts were cut to fit" in results["notes"]["ceval-valid"][-1]
    assert "--seq_length" in caplog.text
    assert "cut" not in "".join(run(tokenizer, ceval, tmp_path / "p")["notes"]["ceval-valid"])


def test_two_runs_are_compared_question_by_question():
    first = [sample(doc_id=i, acc=float(i < 10)) for i in range(40)]
    second = [sample(doc_id=i, acc=float(2 <= i < 30)) for i in range(40)]
    found = compare(first, second, places=("a", "b"))
    assert (len(found.gained), len(found.lost)) == (20, 2)
    assert found.difference == pytest.approx(0.45) and found.interval[0] < 0.45 < found.interval[1]
    assert found.p == pytest.approx(2 * sum(math.comb(22, k) for k in range(3)) / 2**22)
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0
    with pytest.raises(DataError, match="no question"):
        compare(first, [sample(subject="other")], places=("a", "b"))


def test_a_task_in_a_small_yaml(tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"q": f"q{i}", "options": ["x", "y"], "label": i % 2}) for i in range(6))
    )
    (tmp_path / "t.yaml").write_text(
        'name: mine\ndata: rows.jsonl\nprompt: "{q}?"\nchoices: "{options}"\nanswer: "{label}"\n'
    )
    found = evaluate(Scripted(), tokenizer, [str(tmp_path / "t.yaml")])
    assert set(found["groups"]["mine"]) >= {"acc,none", "acc_norm,none"}
    (tmp_path / "t.yaml").write_text('data: rows.jsonl\nprompt: "{nothing}"\nreference: "{q}"\n')
    with pytest.raises(DataError, match="no column 'nothing'"):
        evaluate(Scripted(), tokenizer, [str(tmp_path / "t.yaml")])
    (tmp_path / "t.yaml").write_text('data: rows.jsonl\nprompt: "{q}"\nreferense: "{q}"\n')
    with pytest.raises(UserError, match="reference"):
        evaluate(Scripted(), tokenizer, [str(tmp_path / "t.yaml")])


def test_the_command_names_what_is_missing(capsys, tmp_path):
    assert main(["--model", "glm2_tiny", "--tasks", "cmlu"]) == 2
    assert "Did you mean 'cmmlu'" in capsys.readouterr().err
    assert main(["--tasks", "mmlu"]) == 2
    assert "--model" in capsys.readouterr().err
    words = ["--model", "glm2_tiny", "--tasks", "mmlu", "--data_dir", str(tmp_path / "no"), "--dp_size", "2"]
    assert main(words) == 2  # before a process is started
    assert "no such file or folder" in capsys.readouterr().err
    assert main([*words, "--tp_size", "2"]) == 2
    assert "eval_task and parallel_config" in capsys.readouterr().err
    assert main(["--why", str(tmp_path)]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    assert set(TASKS) == {"ceval-valid", "ceval-test", "cmmlu", "mmlu", "adgen", "ppl"}


def test_the_command_from_model_to_page(ceval, tmp_path, capsys):
    words = ["--model", "glm2_tiny", "--tasks", "ceval-valid", "--data_dir", str(ceval), "--num_fewshot", "0"]
    assert main([*words, "--subjects", "law,logic", "--limit", "2", "--output_dir", str(tmp_path / "o")]) == 0
    assert "ceval-valid: acc" in capsys.readouterr().out
    assert main(["--why", str(tmp_path / "o"), "--against", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "McNemar p = 1" in said and (tmp_path / "o/comparison.html").is_file()
