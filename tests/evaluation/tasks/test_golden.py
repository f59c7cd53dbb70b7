"""Equal to lm-evaluation-harness, to the official program and to ModelLink's: prompts, ids, log-likelihoods, verdicts.

Ids of every golden row are compared; of the log-likelihoods a few rows of each subject here, all in the slow tier.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from mindformers_glm.evaluation.answering import answer
from mindformers_glm.evaluation.interface import Options, Score
from mindformers_glm.evaluation.tasks import build_task
from mindformers_glm.evaluation.tasks.ways import ModelLink, Official, encoded
from mindformers_glm.serving.loading import load

NAMES = {"ceval": "ceval-valid", "cmmlu": "cmmlu", "mmlu": "mmlu"}
SUITES = [(suite, shots) for suite in NAMES for shots in (0, 5)]
FEW = pytest.param(2, id="few")
ALL = pytest.param(12, marks=pytest.mark.slow, id="all")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def sha(ids):
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()


def task_of(suite, shots, tokenizer, benchmark, rows, limit=12):
    task = build_task(NAMES[suite], tokenizer, Options(benchmark[suite], None, shots, "lm-eval", limit, 4096))
    task.subjects = list(dict.fromkeys(row["subject"] for row in rows))
    return task


@pytest.mark.parametrize(("suite", "shots"), SUITES)
def test_contexts_and_ids_of_the_harness(suite, shots, tokenizer, benchmark, folder):
    rows = lines(folder / f"lm_eval_{suite}_{shots}shot_glm2.jsonl")
    task = task_of(suite, shots, tokenizer, benchmark, rows)
    own = {(row.subject, row.number): row for row in task.rows()}
    for expected in rows:
        row = own[expected["subject"], expected["doc_id"]]
        assert task.way.context(row.fields, task.shown_subjects[row.subject]) == expected["context"]
        request = next(task.steps(row))
        assert sha(request.context) == expected["context_ids_sha256"]
        assert request.continuations == expected["continuation_ids"]


@pytest.mark.parametrize("limit", [FEW, ALL])
@pytest.mark.parametrize(("suite", "shots"), SUITES)
def test_log_likelihoods_of_the_harness(suite, shots, limit, engine, tokenizer, benchmark, folder):
    rows = lines(folder / f"lm_eval_{suite}_{shots}shot_glm2.jsonl")
    rows = [row for row in rows if row["doc_id"] < limit]
    task = task_of(suite, shots, tokenizer, benchmark, rows, limit)
    if limit < 12:
        task.subjects = task.subjects[:3]
    answered = answer(task, engine, batch_size=8)
    verdicts = {(row.subject, row.number): verdict for row, verdict in answered.judged}
    for expected in (row for row in rows if row["subject"] in task.subjects):
        verdict = verdicts[expected["subject"], expected["doc_id"]]
        np.testing.assert_allclose(verdict.details["loglikelihood"], expected["loglikelihood"], atol=1e-4)
        assert verdict.details["prediction"] == "ABCD"[expected["prediction"]]
        assert verdict.figures["acc"] == expected["acc"]
    if limit == 12:
        expected = json.loads((folder / "lm_eval_results.json").read_text())
        same = next(r for r in expected if (r["model"], r["suite"], r["shots"]) == ("glm2", suite, shots))
        groups = task.results(answered.judged).groups
        for name, figures in same["groups"].items():
            if name in groups:
                assert groups[name]["acc"] == pytest.approx(figures["acc,none"])


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "batch_size"), [(0, 3), (5, 5)])
def test_log_likelihoods_of_chatglm3_at_other_batch_sizes(shots, batch_size, golden, glm3_vocab, benchmark, folder):
    loaded = load(str(golden / "hf_glm3_tiny"), tokenizer=glm3_vocab, seq_length=4096)
    rows = lines(folder / f"lm_eval_mmlu_{shots}shot_glm3.jsonl")
    task = task_of("mmlu", shots, loaded.tokenizer, benchmark, rows)
    answered = answer(task, loaded.engine, batch_size=batch_size)
    verdicts = {(row.subject, row.number): verdict for row, verdict in answered.judged}
    for expected in rows:
        verdict = verdicts[expected["subject"], expected["doc_id"]]
        np.testing.assert_allclose(verdict.details["loglikelihood"], expected["loglikelihood"], atol=1e-4)
        assert verdict.details["prediction"] == "ABCD"[expected["prediction"]]


@pytest.mark.slow
def test_every_question_of_eight_subjects(engine, tokenizer, benchmark, folder):
    expected = json.loads((folder / "lm_eval_ceval_0shot_all_questions.json").read_text())
    subjects = list(expected["subjects"])
    task = build_task("ceval-valid", tokenizer, Options(benchmark["ceval"], subjects, 0, None, None, 4096))
    answered = answer(task, engine)
    results = task.results(answered.judged)
    for name, figures in expected["subjects"].items():
        assert results.subjects[name]["acc"] == pytest.approx(figures["acc"])
    assert results.groups["ceval-valid"]["acc"] == pytest.approx(expected["weighted_by_questions"])


@pytest.mark.parametrize("limit", [pytest.param(1, id="few"), ALL])
def test_the_official_two_steps(limit, engine, tokenizer, folder, monkeypatch):
    monkeypatch.setattr(Official, "max_new_tokens", 32)
    rows = [row for row in lines(folder / "ceval_official.jsonl") if row["id"] < limit]
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    task = build_task("ceval-valid", tokenizer, Options(folder / "CEval", subjects, None, "official", limit, 4096))
    answered = answer(task, engine, batch_size=8)
    verdicts = {(row.subject, row.number): verdict for row, verdict in answered.judged}
    for expected in rows:
        details = verdicts[expected["subject"], expected["id"]].details
        assert details["response_ids"] == expected["generated_ids"]
        assert details["response"] == expected["response"]
        found, logits = np.array(details["loglikelihood"]), np.array(expected["choice_logits"])
        np.testing.assert_allclose(found - found[0], logits - logits[0], atol=1e-4)
    if limit == 12:
        weighted = json.loads((folder / "ceval_official_results.json").read_text())["weighted"]
        assert task.results(answered.judged).groups["ceval-valid"]["acc"] == weighted


def test_official_prompts_are_cut_where_the_program_cuts_them(tokenizer, folder):
    rows = lines(folder / "ceval_official_truncation.jsonl")
    way = Official(tokenizer, None, max_length=4096, num_fewshot=0)
    cuts = []
    for row in rows:
        steps = way.steps({"inputs_pretokenized": row["inputs_pretokenized"], "answer": 0, "id": 0}, None)
        first = next(steps)
        second = steps.send([])
        cuts.append((len(first.prompt), len(second.context)))
        assert first.prompt[:2] == second.context[:2] == [64790, 64792]
    assert cuts[0] == (2048, 2048) and max(cuts[1]) < 2048


@pytest.mark.parametrize("limit", [pytest.param(1, id="few"), ALL])
def test_modellinks_mmlu(limit, engine, tokenizer, benchmark, folder):
    rows = [row for row in lines(folder / "modellink_mmlu.jsonl") if row["idx"] < limit]
    task = build_task("mmlu", tokenizer, Options(benchmark["mmlu"], None, None, "modellink", limit, 4096))
    task.subjects = list(dict.fromkeys(row["subject"] for row in rows))
    verdicts = {(row.subject, row.number): (row, verdict) for row, verdict in answer(task, engine).judged}
    for expected in rows:
        row, verdict = verdicts[expected["subject"], expected["idx"]]
        assert task.way.prompt(row.fields, task.shown_subjects[row.subject]) == expected["prompt"]
        assert sha(verdict.details["prompt_ids"]) == expected["ids_sha256"]
        assert verdict.details["response_ids"] == [expected["generated_id"]]
        assert verdict.details["prediction"] == expected["extracted"]


def test_modellinks_patterns(folder):
    for case in json.loads((folder / "modellink_mmlu_results.json").read_text())["extraction_cases"]:
        assert ModelLink.extract(case["text"]) == case["answer"], case


def test_borders_of_context_and_continuation(engine, tokenizer, folder):
    rows = [row for row in lines(folder / "edge_loglikelihood.jsonl") if row["form"] == "glm"]
    for row in rows:
        request, cut = encoded(tokenizer, row["context"], [row["continuation"]], row["max_length"])
        room = row["max_length"] + 1 - len(row["continuation_ids"])
        assert cut == row["truncated"]
        assert request == Score(row["context_ids"][-room:] if cut else row["context_ids"], [row["continuation_ids"]])
        (found,) = engine.score(request.context, request.continuations)
        assert found.logprobs.sum() == pytest.approx(row["loglikelihood"], abs=2e-4)
        assert found.is_greedy == row["is_greedy"]
    assert len(rows) > 20


@pytest.mark.parametrize("window", ["2048", "64"])
def test_perplexities_of_the_harness(window, engine, tokenizer, folder, tmp_path):
    expected = json.loads((folder / "perplexity.json").read_text())
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": row["text"]}) for row in expected["texts"]))
    task = build_task("ppl", tokenizer, Options(file, None, None, "lm-eval", None, int(window)))
    answered = answer(task, engine)
    sums = [verdict.figures["loglikelihood"] for _, verdict in answered.judged]
    np.testing.assert_allclose(sums, expected["harness"][window]["loglikelihood"], rtol=1e-6)
    total = task.results(answered.judged).groups["ppl"]
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert total[name] == pytest.approx(expected["harness"][window][f"{name},none"], rel=1e-4)


def test_perplexity_after_the_prefix_of_chatglm(engine, tokenizer, folder, tmp_path):
    expected = json.loads((folder / "perplexity.json").read_text())["texts"]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": row["text"]}) for row in expected))
    task = build_task("ppl", tokenizer, Options(file, None, None, None, None, 4096))
    for (_, verdict), row in zip(answer(task, engine).judged, expected, strict=True):
        assert verdict.figures["loglikelihood"] == pytest.approx(row["glm_prefix_loglikelihood"], rel=1e-6)
        np.testing.assert_allclose(verdict.details["logprobs"], row["glm_prefix_logprobs"], atol=2e-4)
