"""Evaluation, prediction and only_save_strategy in two real processes: the figures of one, and half of its work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.config.names import ASSETS

sys.path.insert(0, str(Path(__file__).parent))
from launched import run  # noqa: E402

ROWS = [
    ("类型#裤*颜色#黑色", "黑色的裤子"),
    ("类型#上衣*风格#简约", "简约的上衣很好看"),
    ("类型#裙*图案#条纹", "条纹裙子"),
]
NUM_ROWS, BATCHES, PREDICTED = 7, 4, 3  # seven rows in batches of two: the last one is short, and ranks are uneven


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.skipif(not (ASSETS / "glm2_tiny/model.safetensors").is_file(), reason="glm2_tiny's weights are missing")
def test_two_processes_evaluate_and_predict_as_one(tmp_path):
    lines = [json.dumps(dict(zip(("content", "summary"), ROWS[i % 3], strict=True))) for i in range(NUM_ROWS)]
    (tmp_path / "dev.json").write_text("\n".join(lines), encoding="utf-8")
    run(tmp_path, 1, "one", script="modes.py")
    run(tmp_path, 2, "dp=2", "tp=2", "pp=2", script="modes.py", timeout=900)

    def report(variant, rank):
        return json.loads((tmp_path / f"{variant}.{rank}.json").read_text(encoding="utf-8"))

    one, written = report("one", 0), (tmp_path / "one/predictions.jsonl").read_text(encoding="utf-8")
    assert one["steps"] == 4 * BATCHES
    assert set(one["figures"]) == {"text", "sampled", "loss", "loss while training"}
    assert one["figures"]["loss while training"] == pytest.approx(one["figures"]["loss"], rel=1e-5)
    assert len(one["results"]) == PREDICTED
    assert [json.loads(line)["line"] for line in written.splitlines()] == list(range(1, NUM_ROWS + 1))
    for variant in ("dp=2", "tp=2", "pp=2"):
        for rank in range(2):
            found = report(variant, rank)
            for name, figures in one["figures"].items():
                exact = variant == "dp=2"  # the very same batches; tensor ranks add up in another order
                close = pytest.approx(figures, rel=0 if exact else 1e-5, abs=0)
                assert found["figures"][name] == close, (variant, rank, name)
            assert found["results"] == one["results"]
            if variant != "pp=2":  # a stage draws fewer layers when it is built
                assert found["draw"] == one["draw"]  # the generator of the process stands where it would stand alone
            assert found["steps"] == (4 * BATCHES // 2 if variant == "dp=2" else 4 * BATCHES)
        assert (tmp_path / variant / "predictions.jsonl").read_text(encoding="utf-8") == written
        assert (tmp_path / f"{variant}.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()

    for variant, ranks in (("one", 1), ("dp=2", 2), ("tp=2", 2), ("pp=2", 2)):
        folder = tmp_path / variant
        assert sorted(path.name for path in (folder / "strategy").iterdir()) == [
            f"ckpt_strategy_rank_{rank}.ckpt" for rank in range(ranks)
        ]
        strategy = read_strategy(folder / "strategy")
        assert (strategy.ranks, strategy.devices) == (ranks, 1 if variant == "pp=2" else ranks)
        assert strategy.holds("adam_m.transformer.output_layer.weight", ranks - 1)
        assert not list(folder.glob("checkpoint*"))


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_waits_for_a_slow_one(tmp_path):
    run(tmp_path, 2, script="patience.py")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["2.0", "2.0"]
