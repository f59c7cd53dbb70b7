"""Trackers: each package's files hold what was told, offline; one of a user's own is a class with three methods."""

from __future__ import annotations

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import TRACKERS
from mindformers_glm.train.trackers.interface import Begun, Tracker, build_trackers


@pytest.fixture
def run(tmp_path):
    return Begun(tmp_path / "out", "out", {"seed": 1, "model.num_layers": 2, "optimizer.type": "AdamW"})


def told(tracker: Tracker, run: Begun, status: str = "finished") -> None:
    tracker.begin(run)
    for step in range(1, 4):
        tracker.log(step, {"loss": 1 / step, "eval/PPL": 2.0 * step})
    tracker.end(status)


def content(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("swanlab", "swanlab"), ("wandb", "wandb")]
)
def test_files_of_a_tracker_hold_what_was_told(run, name, package):
    pytest.importorskip(package)
    told(build_trackers([name])[0], run)
    found = content(run.output_dir)
    assert b"loss" in found and b"eval/PPL" in found and b"num_layers" in found


@pytest.mark.parametrize(
    ("status", "state"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_mlflow_has_the_metrics_and_the_end(run, status, state):
    mlflow = pytest.importorskip("mlflow")
    told(build_trackers([{"type": "mlflow", "project": "p"}])[0], run, status)
    client = mlflow.MlflowClient(f"sqlite:///{run.output_dir / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("p").experiment_id])
    assert found.info.status == state and found.data.params["optimizer.type"] == "AdamW"
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "eval/PPL")] == [
        (1, 2),
        (2, 4),
        (3, 6),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("swanlabs", r"report_to\.0\.type: got 'swanlabs'. No tracker has this name. Did you mean 'swanlab'"),
        ({"type": "tensorboard", "freq": 2}, r"report_to\.0\.freq: got 2. Unknown key"),
        ({"type": "tensorboard", "collect_freq": 0}, r"collect_freq: got 0. Use 1 or more"),
    ],
)
def test_what_cannot_be_is_told(spec, message):
    with pytest.raises(ConfigError, match=message):
        build_trackers([spec])


def test_a_tracker_of_ones_own_is_one_class(toy, tmp_path):
    from mindformers_glm.train.callbacks.tracking import Tracking, flat  # noqa: PLC0415
    from mindformers_glm.train.fit import fit  # noqa: PLC0415

    heard = []

    class Mine(Tracker):
        package, extra = "json", "none"

        def begin(self, run):
            heard.append(("begin", run.name, dict(run.settings)))

        def log(self, step, figures):
            heard.append((step, sorted(figures)))

        def end(self, status):
            heard.append(("end", status))

    TRACKERS.register("mine")(Mine)
    data = toy.dataset()
    (tracker,) = build_trackers([{"type": "mine", "collect_freq": 5}])
    state = toy.run(tmp_path / "r", data, step=toy.nudge())
    state.evaluations.append((0, {"PPL": 3.0}))
    fit(state, data, lambda step: 0.01, [Tracking(tracker, {"a": {"b": 1, "c": None}})])
    assert heard[0] == ("begin", "r", {"a.b": 1}) and heard[-1] == ("end", "finished")
    assert [step for step, _ in heard[1:-1]] == [5, 10, 12]
    assert {"loss", "learning_rate", "grad_norm", "loss_scale"} <= set(heard[1][1])
    assert flat({"x": {"y": [1]}}) == {"x.y": "[1]"}
