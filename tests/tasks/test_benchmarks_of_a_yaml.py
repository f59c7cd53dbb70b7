"""`eval_task`: benchmarks in run mode eval and while training, with the figures of `evaluate --tasks`."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.config import load_config
from mindformers_glm.config.evaluation import BENCHMARKS
from mindformers_glm.config.names import ASSETS
from mindformers_glm.errors import UserError
from mindformers_glm.evaluation.tasks.adgen import ADGen
from mindformers_glm.evaluation.tasks.registered import TASKS
from mindformers_glm.tasks.task import run_task

pytestmark = pytest.mark.skipif(not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="no weights")
ROWS = [
    ("类型#裤*颜色#黑色", "黑色的裤子很百搭。"),
    ("类型#上衣*风格#简约", "简约的上衣很好看。"),
    ("类型#裙*图案#条纹", "条纹裙子显瘦。"),
]


@pytest.fixture(scope="module")
def adgen(tmp_path_factory):
    file = tmp_path_factory.mktemp("adgen") / "dev.json"
    lines = [json.dumps({"content": content, "summary": summary}, ensure_ascii=False) for content, summary in ROWS]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def config(root, out, **changes):
    return load_config(
        root / "configs/tiny/run_glm2_tiny_eval.yaml", {"run_mode": "eval", "output_dir": str(out), **changes}
    )


def test_the_configuration_knows_every_task_by_name():
    assert set(BENCHMARKS) == set(TASKS)


def test_adgen_gives_the_figures_of_the_metric(root, adgen, tmp_path, monkeypatch):
    monkeypatch.setattr(ADGen, "max_length", 40)
    monkeypatch.setattr(ADGen, "least_new", 1)
    short = {"model": {"model_config": {"max_length": 40, "max_decode_length": None}}}
    found = run_task(config(root, tmp_path / "a", eval_task={"tasks": "adgen", "data_dir": str(adgen)}))
    data = {"data_loader": {"dataset_dir": str(adgen)}}
    expected = run_task(config(root, tmp_path / "b", eval_dataset=data, **short))
    assert found.pop("adgen_questions", 3) == 3
    assert found == pytest.approx({f"adgen_{name}": value for name, value in expected.items()}, abs=1e-9)
    samples = [json.loads(line) for line in (tmp_path / "a/samples.jsonl").read_text().splitlines()]
    predictions = [json.loads(line) for line in (tmp_path / "b/predictions.jsonl").read_text().splitlines()]
    assert [row["response"] for row in samples] == [row["prediction"] for row in predictions]
    about = json.loads((tmp_path / "a/results.json").read_text())["config"]
    assert (about["model_family"], about["max_length"]) == ("chatglm2", 512)


def test_a_benchmark_as_metric_is_the_same(root, adgen, tmp_path):
    same = config(root, tmp_path, metric={"type": "adgen", "data_dir": str(adgen), "limit": 2}, eval_dataset=None)
    assert same.eval_task.tasks == ["adgen"]
    assert (same.eval_task.limit, same.eval_task.batch_size, same.metric) == (2, 8, None)


@pytest.mark.slow
def test_while_training_it_is_the_figure_of_the_best_checkpoint(root, adgen, tmp_path):
    (tmp_path / "texts.txt").write_text("黑色的裤子\n条纹裙子\n", encoding="utf-8")
    data = {"data_loader": {"dataset_dir": str(adgen)}, "max_source_length": 31, "max_target_length": 32}
    run_task(
        load_config(
            root / "configs/tiny/run_glm2_tiny_lora.yaml",
            {
                "run_mode": "finetune", "do_eval": True, "eval_step_interval": 1, "output_dir": str(tmp_path / "out"),
                "runner_config": {"batch_size": 1, "epochs": 1, "sink_mode": False}, "train_dataset": data,
                "model": {"model_config": {"seq_length": 64}},
                "eval_task": {"tasks": "ppl", "data_dir": str(tmp_path / "texts.txt")},
                "callbacks": [{"type": "EarlyStopping", "metric": "ppl_token_perplexity", "patience": 9}],
            },
        )
    )  # fmt: skip
    assert (tmp_path / "out/log").exists()
    (log,) = (path for path in (tmp_path / "out/log").rglob("*") if path.name == "info.log")
    assert log.read_text().count("ppl_token_perplexity") == 6
    assert not (tmp_path / "out/results.json").exists()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tasks": "cmlu"}, "eval_task.tasks.*Did you mean 'cmmlu'"),
        ({"tasks": "adgen"}, "--data_dir"),
        ({"tasks": "adgen", "data_dir": "nowhere"}, "no dev.json here"),
        ({"tasks": "adgen", "data_dir": "x", "fewshot": 1}, "eval_task.fewshot"),
        ({"tasks": "adgen", "way": "loud"}, "eval_task.way"),
        ({"tasks": []}, "eval_task.tasks"),
    ],
)
def test_what_is_wrong_is_told_before_a_network_is_built(root, tmp_path, section, said, monkeypatch):
    monkeypatch.setattr("mindformers_glm.tasks.causal_language_modeling.build_network", None)
    with pytest.raises(UserError, match=f"(?s){said}"):
        run_task(config(root, tmp_path, eval_task=section))
