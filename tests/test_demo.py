"""The demo's parts: reading a product, reading a run's lines, the screen; among the slow tests, a small real run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo import screen, stage  # noqa: E402
from demo.aside import set_aside  # noqa: E402
from demo.coverage import coverage  # noqa: E402
from demo.product import read_product, word_tables  # noqa: E402
from demo.run_demo import METRICS, WAYS, Demo, best_way, show_table  # noqa: E402
from mindformers_glm.auto import AutoTokenizer  # noqa: E402
from mindformers_glm.config.loader import read_yaml  # noqa: E402
from mindformers_glm.evaluation.tasks.adgen import ADGen  # noqa: E402
from mindformers_glm.tokenizers import Renderer  # noqa: E402
from tools.glm2_tiny.advert import mentions, read_content  # noqa: E402
from tools.glm2_tiny.grammar import kinds  # noqa: E402
from tools.glm2_tiny.make_corpus import adgen  # noqa: E402


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("红色复古波点连衣裙", "类型#裙*颜色#红色*风格#复古*图案#波点*裙长#连衣裙"),
        ("a red silk dress with dots", "类型#裙*材质#蚕丝*颜色#红色*图案#波点*裙长#连衣裙"),
        ("Blue jeans", "类型#裤*材质#牛仔布*颜色#蓝色*裤长#长裤"),
        ("浅蓝色衬衫", "类型#上衣*颜色#浅蓝色*衣样式#衬衫"),
        ("一台静音又省电的电风扇", "类型#风扇*特点#省电*特点#静音"),
        ("不锈钢保温杯，黑色", "类型#水杯*颜色#黑色*杯身#不锈钢*特点#保温"),
        ("一款降噪蓝牙耳机", "类型#耳机*功能#蓝牙连接*功能#降噪"),
        ("真皮手提包 品牌是星河", "类型#包*材质#真皮*包款#手提包*品牌#星河"),
        ("类型#裙*颜色#红色", "类型#裙*颜色#红色"),
    ],
)
def test_a_description_is_read_as_attributes(text, content):
    assert read_product(text) == (content, True)


@pytest.mark.parametrize("text", ["我家的猫", "happiness", "？！"])
def test_an_unknown_product_becomes_a_request_in_the_users_words(text):
    assert read_product(text) == (f"写广告：{text}", False)


def test_every_english_word_names_something_in_the_tables():
    unread = [word for word, chinese in word_tables()["english"].items() if not _known(chinese)]
    assert unread == []


def _known(chinese):
    values = {v for kind in kinds().values() for spec in kind.attributes.values() for v in spec.values}
    return chinese in values or read_product(chinese).understood


def test_lines_of_a_run_are_read():
    outcome = stage.Outcome()
    line = "... - mindformers[x.py:1] - INFO - { Epoch:[  1/  2], step:[    4/   75], loss:[2.346/2.500], "
    assert "step 4/75  loss 2.346" in stage.read_line(line, outcome)
    assert "step 5/75" in stage.read_line(
        "{ Epoch:[  1/  1], step:[    5/   75], loss: 2.125, per_step_time: 9ms", outcome
    )
    assert outcome.losses == [2.346, 2.125]
    assert stage.read_line("Step[2/5], cost time 1.0s", outcome) == "evaluating: batch 2 of 5"
    assert stage.read_line("rouge-1: 31.0564", outcome) == ""
    stage.read_line("bleu-4:  7.2294", outcome)
    assert outcome.metrics == {"rouge-1": 31.0564, "bleu-4": 7.2294}


def test_wrapped_text_fits_and_is_whole():
    text = "家人们看过来，今天给大家上的是这款韩版风的围巾！GLM2-Tiny says: a red silk dress，轻便好带，点睛之笔！" * 3
    lines = screen.wrap(text, 40)
    assert all(screen.cells(line) <= 42 for line in lines)  # a mark may hang over the edge
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith(("，", "。", "！")) for line in lines)


def test_a_curve_falls_with_its_values():
    assert screen.curve([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"
    assert len(screen.curve(list(range(200, 0, -1)))) <= 24
    assert screen.curve([]) == ""


def test_a_table_has_its_columns_under_each_other(capsys):
    screen.table(["", "BLEU-4"], [["以前", "1.5"], ["after", "27.25"]])
    assert capsys.readouterr().out.splitlines() == ["           BLEU-4", "   以前       1.5", "   after    27.25"]


def test_the_data_are_the_same_each_time_and_kept_apart(tmp_path, capsys):
    for name in ("a", "b"):
        Demo(tmp_path / name, train_lines=40, eval_lines=10).make_data()
    for file in ("live_train.json", "live_eval.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    train, judged = (
        [json.loads(line) for line in (tmp_path / "a" / file).read_text(encoding="utf-8").splitlines()]
        for file in ("live_train.json", "live_eval.json")
    )
    assert (len(train), len(judged)) == (40, 10)
    assert not {row["content"] for row in train} & {row["content"] for row in judged}
    assert all(mentions(read_content(row["content"]), row["summary"]) for row in train + judged)


def test_an_earlier_run_counts_only_with_its_weights_and_sizes(tmp_path):
    demo = Demo(tmp_path, train_lines=40, eval_lines=10)
    assert demo.earlier() is None
    for way in WAYS:
        demo.weights(way).parent.mkdir(parents=True)
        demo.weights(way).write_bytes(b"x")
    found = {"fingerprint": demo.fingerprint(), "metrics": {}, "losses": {}}
    demo.results.write_text(json.dumps(found), encoding="utf-8")
    assert demo.earlier() == found
    assert Demo(tmp_path, train_lines=41, eval_lines=10).earlier() is None


def test_no_prompt_and_no_answer_of_the_demo_is_cut():
    renderer = Renderer(AutoTokenizer.from_pretrained("glm3_tiny"))
    length = read_yaml(ROOT / "demo/full.yaml")["train_dataset"]["max_seq_length"]
    for row in adgen("live", 1640, seed=2, least=2, most=4):
        ids = renderer.example([(row["content"], row["summary"])]).ids
        assert len(ids) <= length and len(ids) < ADGen.max_length


def test_coverage_counts_what_a_text_names(tmp_path):
    samples, data = tmp_path / "samples.jsonl", tmp_path / "data.json"
    texts = ("红色的裙子，波点图案", "红色的裙子", "你好", "")
    rows = [{"line": number, "response": text} for number, text in enumerate(texts, start=1)]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data.write_text('{"content": "类型#裙*颜色#红色*图案#波点"}\n' * 4, encoding="utf-8")
    assert coverage(samples, data) == {"attributes": pytest.approx(100 * 5 / 12), "whole": 25.0}


@pytest.mark.parametrize(("full", "expected"), [(30.0, "full"), (10.0, "lora")])
def test_the_better_way_is_shown_as_such(capsys, full, expected):
    figures = dict.fromkeys(METRICS, 20.0)
    found = {
        "metrics": {"before": figures, "lora": figures, "full": {**figures, "rouge-l": full}},
        "losses": {"lora": [4.0, 1.0], "full": [4.0, 1.0]},
    }
    assert best_way(found).folder == expected
    show_table(found)
    (marked,) = [line for line in capsys.readouterr().out.splitlines() if "<- the best" in line]
    assert marked.strip().startswith("full fine-tuning" if expected == "full" else "LoRA")


def test_a_failed_stage_shows_the_last_lines(tmp_path, capsys):
    with pytest.raises(stage.StageFailed, match="error: .*nowhere.yaml"):
        stage.run_stage(["--config", "nowhere.yaml"], tmp_path / "console.log")
    assert "nowhere.yaml" in (tmp_path / "console.log").read_text(encoding="utf-8")


def test_what_an_earlier_run_trained_is_set_aside(tmp_path, capsys):
    folder = tmp_path / "lora"
    assert set_aside(folder) is None
    for number in (1, 2):
        weights = folder / "checkpoint_network/rank_0/demo_rank_0-network.ckpt"
        weights.parent.mkdir(parents=True)
        weights.write_text(f"run {number}", encoding="utf-8")
        place = set_aside(folder)
        assert place == tmp_path / f"lora_earlier_{number}" and not folder.exists()
        assert (place / weights.relative_to(folder)).read_text(encoding="utf-8") == f"run {number}"
        assert str(place) in capsys.readouterr().out
    folder.mkdir()
    assert set_aside(folder) is None and folder.is_dir()


SMALL = ["--train_lines", "640", "--eval_lines", "16"]


@pytest.mark.slow
def test_a_small_run_ends_with_a_table_and_an_advertisement(tmp_path):
    command = [sys.executable, str(ROOT / "demo/run_demo.py"), "--output_dir", str(tmp_path), *SMALL]
    environment = {key: value for key, value in os.environ.items() if key not in ("PRODUCT", "AGAIN")}
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "glm3_tiny as it ships" in run.stdout
    assert (tmp_path / "advertisement.txt").is_file()
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["metrics"]["full"]["rouge-l"] > found["metrics"]["before"]["rouge-l"]
    assert all(0 < row["attributes"] <= 100 for row in found["metrics"].values())
    assert found["metrics"]["full"]["attributes"] >= 70
    pasted = [line.strip()[2:] for line in run.stdout.splitlines() if line.strip().startswith("$ ")]
    talk, serve, evaluate = pasted[-3:]
    said = subprocess.run(talk, cwd=ROOT, shell=True, input="类型#裙*颜色#红色\n", capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("答："), said.stderr
    again = subprocess.run(evaluate, cwd=ROOT, shell=True, capture_output=True, text=True)
    assert again.returncode == 0 and "adgen: rouge-1 " in again.stdout, again.stderr
    _serves(serve)
    again = subprocess.run(
        [*command, "--product", "白色帆布鞋"], capture_output=True, text=True, timeout=120, env=environment
    )
    assert "earlier run" in again.stdout
    assert "白色" in (tmp_path / "advertisement.txt").read_text(encoding="utf-8")


def _serves(command: str) -> None:
    """The page and the model behind the address that the command tells; another port than the one of the demo."""
    server = subprocess.Popen(f"exec {command} --port 0", cwd=ROOT, shell=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)  # fmt: skip
    try:
        told = next(found for line in server.stdout if (found := re.search(r"at (http://[\d.:]+)", line)))
        with urllib.request.urlopen(told[1], timeout=30) as page:
            assert b"<html" in page.read()[:2000]
        with urllib.request.urlopen(f"{told[1]}/v1/models", timeout=30) as models:
            assert json.load(models)["data"]
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_and_its_child(tmp_path):
    command = [sys.executable, str(ROOT / "demo/run_demo.py"), "--output_dir", str(tmp_path), *SMALL]
    demo = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said = [next(line for line in demo.stdout if "Learning the style" in line)]
    demo.send_signal(signal.SIGINT)
    text = "".join([*said, *demo.stdout])
    demo.wait(timeout=60)
    assert demo.returncode == 130
    assert "Stopped" in text
    assert "Traceback" not in text
